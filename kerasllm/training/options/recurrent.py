"""Settings for the recurrent model that a run starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from kerasllm.cli.ranges import at_least, within
from kerasllm.cli.settings import only_without
from kerasllm.errors import InputError
from kerasllm.models.recurrent.config import Activation, Cell, RecurrentConfig
from kerasllm.models.registry import check_checkpoint
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.special_tokens import end_of_text_id
from kerasllm.tokenizers.words import train_words
from kerasllm.training.options.start import BYTE_LEVEL_BPE, StartOptions, say_that_a_tokenizer_is_trained

TRAINED = ("characters", *BYTE_LEVEL_BPE, "words")
"""The kinds of tokenizers that are trained on the corpus."""


@dataclass
class RecurrentOptions:
    """The shape of a new model; null keeps the default."""

    num_layers: int | None = None
    """Number of recurrent layers; 1 if null."""

    hidden_dim: int | None = None
    """Units of a layer, in each direction; 256 if null."""

    embedding_dim: int | None = None
    """Width of the token embeddings; half of hidden_dim if null, or hidden_dim if they are tied."""

    activation: Activation | None = None
    """With --cell rnn: tanh or relu."""

    dropout: float | None = field(default=None, metadata=within(0, 1))
    """Locked dropout of embeddings, between layers and of the output."""

    embedding_dropout: float | None = field(default=None, metadata=within(0, 1))
    """Locked dropout of the embeddings, if it differs from the others."""

    weight_drop: float | None = field(default=None, metadata=within(0, 1))
    """Share of the recurrent weights that are dropped in training."""

    tie_embeddings: bool | None = None
    """Whether the output projection is the token embedding's transpose."""

    use_projection: bool | None = None
    """Whether a dense layer brings the output to the width of the embeddings."""

    def chosen(self) -> dict[str, Any]:
        """Returns the options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(kw_only=True)
class RecurrentStartOptions(StartOptions):
    """Settings for the recurrent model that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    tokenizer: str | None = None
    """characters, byte_level_bpe or words (trained on the data; words if null), or a file, directory or run."""

    vocabulary_size: int = field(default=10_000, metadata=only_without("init") | at_least(3))
    """Size of the vocabulary of words or byte-level BPE to train."""

    cell: Cell | None = None
    """Kind of the cells; lstm, or that of --init, if null."""

    model: RecurrentOptions = field(default_factory=RecurrentOptions)

    def check_start(self, **settings: Any) -> None:
        """Refuses an impossible shape of a new model, and a tokenizer that would not be used.

        Args:
            settings: further fields of a new model's config.

        Raises:
            InputError: an option is out of range or has no effect; the message names it.
        """
        if self.init and self.tokenizer in TRAINED:
            raise InputError(
                f"--tokenizer {self.tokenizer} trains a new one: leave it out, --init brings its own"
            )
        if self.init:
            self._checkpoint()
        else:
            self._new_shape(vocabulary_size=self.vocabulary_size, **settings)

    def find_tokenizer(self, texts: Iterable[str]) -> Any:
        """Returns the tokenizer that `--tokenizer` names, that of `--init`, or one trained on texts.

        Args:
            texts: the texts to train on, read only if they are needed.

        Raises:
            InputError: there is no tokenizer, or it has no token for the end of a text.
        """
        if self.init:
            tokenizer = self.tokenizer_of_init(self.tokenizer, load_tokenizer)
        elif self.tokenizer == "characters":
            tokenizer = train_characters(texts)
        elif self.tokenizer in BYTE_LEVEL_BPE:
            say_that_a_tokenizer_is_trained("byte-level BPE", self.vocabulary_size)
            tokenizer = train_byte_level_bpe(texts, self.vocabulary_size)
        elif self.tokenizer in (None, "words"):
            tokenizer = train_words(texts, self.vocabulary_size)
        else:
            tokenizer = load_tokenizer(self.tokenizer)
        end_of_text_id(tokenizer)
        return tokenizer

    def find_shape(self, tokenizer: Any, **settings: Any) -> RecurrentConfig:
        """Returns the config of a new model, or that of `--init`, which must fit the tokenizer.

        Args:
            tokenizer: the model's tokenizer.
            settings: further fields of a new model's config.

        Raises:
            InputError: the checkpoint does not fit.
        """
        size = vocabulary_size(tokenizer)
        if self.init:
            shape = self._checkpoint()
            if size > shape.vocabulary_size:
                raise InputError(
                    f"the tokenizer has {size} tokens, the model of {self.init} {shape.vocabulary_size}: they do not "
                    "belong together; take the tokenizer that the checkpoint came with"
                )
            return shape
        end = end_of_text_id(tokenizer)
        shape = self._new_shape(vocabulary_size=size, **settings)
        return dataclasses.replace(shape, end_token_id=end, begin_token_id=end)

    def _checkpoint(self) -> RecurrentConfig:
        """Returns the config of `--init`, which no option may change."""
        changed = [name for name in self.model.chosen() if name != "dropout"]
        if changed:
            raise InputError(
                f"--model.{changed[0]} cannot change a checkpoint: leave it out, or leave --init out"
            )
        shape = check_checkpoint(self.init or "", RecurrentConfig)
        if self.cell not in (None, shape.cell):
            raise InputError(
                f"--cell is {self.cell}, the model of {self.init} has {shape.cell} cells: leave --cell out"
            )
        return shape

    def _new_shape(self, **settings: Any) -> RecurrentConfig:
        try:
            return RecurrentConfig(cell=self.cell or "lstm", **self.model.chosen(), **settings)
        except ValueError as error:
            raise InputError(f"--model.{error}") from error
