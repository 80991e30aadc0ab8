"""Settings of the encoder-decoder that a run starts from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from kerasllm.cli.ranges import at_least, within
from kerasllm.cli.settings import only_without
from kerasllm.errors import InputError
from kerasllm.models import (
    SEQ2SEQ_SIZES,
    RecurrentSeq2SeqConfig,
    RecurrentSeq2SeqLM,
    Seq2SeqConfig,
    Seq2SeqLM,
)
from kerasllm.models.gpt.config import FeedForward, Normalization
from kerasllm.models.recurrent.config import Cell
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.parallel import Kind, train_joint_tokenizer, train_separate_tokenizers
from kerasllm.tokenizers.special_tokens import end_of_text_id, padding_id
from kerasllm.training.options.start import BYTE_LEVEL_BPE, ShapeOptions, StartOptions

TRAINED = (*BYTE_LEVEL_BPE, "unigram")

Seq2SeqSize: Any = Literal[tuple(SEQ2SEQ_SIZES)]


@dataclass
class Seq2SeqOptions(ShapeOptions):
    """Changes to a named size of an encoder-decoder; null keeps the size's own value."""

    config_class = Seq2SeqConfig
    checkpoint_classes = (Seq2SeqConfig, RecurrentSeq2SeqConfig)
    length_option = "--max_length"

    num_decoder_layers: int | None = None
    """Number of decoder blocks; as many as encoder blocks if null."""

    intermediate_dim: int | None = None
    """Width inside the feed-forward network; that of the named size if null."""

    attention_dropout: float | None = field(default=None, metadata=within(0, 1))
    """Dropout of the attention probabilities."""

    normalize_first: bool | None = None
    """Whether norms stand before the branches, and not after the sums."""

    normalization: Normalization | None = None
    """layer_norm or rms_norm."""

    positions: Literal["sinusoidal", "learned"] | None = None
    """Kind of the positions' embeddings."""

    scale_embedding: bool | None = None
    """Whether token embeddings are multiplied by the root of the width."""

    feed_forward: FeedForward | None = None
    """dense, or gated (SwiGLU with --model.activation silu)."""

    tie_embeddings: bool | None = None
    """Whether the output projection is the token embedding's transpose."""


@dataclass(kw_only=True)
class Seq2SeqStartOptions(StartOptions):
    """Settings for the encoder-decoder that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    tokenizer: str | None = None
    """byte_level_bpe or unigram (trained on both sides; byte_level_bpe if null), or a file, directory or run."""

    vocabulary_size: int = field(default=8000, metadata=only_without("init") | at_least(1))
    """Size of the vocabulary to train, for source and target together."""

    separate_tokenizers: bool = field(default=False, metadata=only_without("init"))
    """Train on each side apart, each with half of the pieces; by default one tokenizer divides both."""

    size: Seq2SeqSize = field(default="mini", metadata=only_without("init"))
    """Named size of a new model; --model.* options override it."""

    cell: Cell | None = None
    """Kind of the cells of a recurrent encoder-decoder with attention; if null, it is a Transformer, or --init's."""

    model: Seq2SeqOptions = field(default_factory=Seq2SeqOptions)

    max_length: int = field(default=128, metadata=at_least(2))
    """Maximum tokens of a source, and of a target, with the end token; positions of a new model."""

    def check_start(self) -> None:
        """Refuses an impossible shape of a new model, and a tokenizer that would not be used.

        Raises:
            InputError: an option is out of range or has no effect; the message names it.
        """
        if self.init and self.tokenizer in TRAINED:
            raise InputError(
                f"--tokenizer {self.tokenizer} trains a new one: leave it out, --init brings its own"
            )
        if self.separate_tokenizers and self.tokenizer not in (None, *TRAINED):
            raise InputError(
                f"--separate_tokenizers trains new ones, --tokenizer {self.tokenizer} brings its own: leave one out"
            )
        if not self.init:
            self._new_shape(self.vocabulary_size)

    def find_tokenizer(self, sources: list[str], targets: list[str], tags: list[str]) -> Any:
        """Returns the tokenizer that `--tokenizer` names, that of `--init`, or one trained on texts.

        Args:
            sources: the texts to train on, read only if they are needed.
            targets: those of the other side.
            tags: tokens of their own in the vocabulary of a new one.

        Raises:
            InputError: there is no tokenizer.
        """
        if self.init:
            return self.tokenizer_of_init(self.tokenizer, load_tokenizer)
        if self.tokenizer not in (None, *TRAINED):
            return load_tokenizer(self.tokenizer)
        kind: Kind = "unigram" if self.tokenizer == "unigram" else "byte_level_bpe"
        if self.separate_tokenizers:
            return train_separate_tokenizers(sources, targets, self.vocabulary_size, kind=kind, tags=tags)
        return train_joint_tokenizer([*sources, *targets], self.vocabulary_size, kind=kind, tags=tags)

    def find_shape(self, tokenizer: Any) -> Seq2SeqConfig | RecurrentSeq2SeqConfig:
        """Returns the config of a new model, or that of `--init`, which must fit the tokenizer.

        Args:
            tokenizer: the model's tokenizer.

        Raises:
            InputError: the checkpoint does not fit, or the tokenizer has no token for padding.
        """
        size = vocabulary_size(tokenizer)
        if self.init:
            shape = self.model.check_with(self.init, vocabulary_size=size, sequence_length=self.max_length)
            found = getattr(shape, "cell", None)
            if self.cell not in (None, found):
                raise InputError(
                    f"--cell is {self.cell}, the model of {self.init} {f'has {found} cells' if found else 'has none'}: "
                    "leave --cell out"
                )
            return shape
        padding = padding_id(tokenizer)
        return dataclasses.replace(
            self._new_shape(size), end_token_id=end_of_text_id(tokenizer), pad_token_id=padding
        )

    def class_of(self, shape: Seq2SeqConfig | RecurrentSeq2SeqConfig) -> type:
        """Returns the class of a model with this config."""
        return Seq2SeqLM if isinstance(shape, Seq2SeqConfig) else RecurrentSeq2SeqLM

    def _new_shape(self, num_tokens: int) -> Any:
        if self.cell:
            return self._recurrent_shape(num_tokens)
        return self.model.shape(
            self.size,
            vocabulary_size=num_tokens,
            sequence_length=self.max_length,
            positions=self.max_length,
        )

    def _recurrent_shape(self, num_tokens: int) -> RecurrentSeq2SeqConfig:
        known = {each.name for each in dataclasses.fields(RecurrentSeq2SeqConfig)}
        strange = [name for name in self.model.chosen() if name not in known]
        if strange:
            raise InputError(
                f"--model.{strange[0]} is a Transformer's: leave it out for a recurrent model, or leave --cell out"
            )
        changes = {"max_sequence_length": self.max_length, "cell": self.cell} | self.model.chosen()
        try:
            return RecurrentSeq2SeqConfig.from_size(self.size, vocabulary_size=num_tokens, **changes)
        except ValueError as error:
            text = str(error)
            raise InputError(
                f"--size {self.size}: {text}" if text.startswith("there is") else f"--model.{text}"
            ) from error
