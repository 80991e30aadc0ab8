"""Settings for the model that a run starts from: a checkpoint, or a named size with `--model.*` changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from kerasllm.checkpoints import resolve_directory
from kerasllm.cli.ranges import above, at_least, within
from kerasllm.cli.settings import only_without
from kerasllm.errors import InputError
from kerasllm.models import BERT_SIZES, GPT_SIZES, SEQ2SEQ_SIZES, BertConfig, GPTConfig, Seq2SeqConfig
from kerasllm.models.gpt.config import FeedForward, Normalization, Positions
from kerasllm.models.registry import check_checkpoint
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer, load_wordpiece
from kerasllm.tokenizers.parallel import train_parallel_bpe, train_separate_bpe
from kerasllm.tokenizers.special_tokens import end_of_text_id, padding_id
from kerasllm.tokenizers.wordpiece import train_wordpiece

BertSize: Any = Literal[tuple(BERT_SIZES)]
GPTSize: Any = Literal[tuple(GPT_SIZES)]
Seq2SeqSize: Any = Literal[tuple(SEQ2SEQ_SIZES)]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass
class _ModelOptions:
    """The options that BERT and GPT share."""

    config_class: ClassVar[Any]
    length_option: ClassVar[str]

    num_layers: int | None = None
    """Number of blocks."""

    num_heads: int | None = None
    """Attention heads per block."""

    hidden_dim: int | None = None
    """Width of the model."""

    intermediate_dim: int | None = None
    """Width inside the feed-forward network; 4 * hidden_dim if null."""

    dropout: float | None = field(default=None, metadata=within(0, 1))
    """Dropout of embeddings, residuals and attention."""

    max_sequence_length: int | None = None
    """Number of learned positions."""

    activation: Activation | None = None
    """Activation of the feed-forward network; gelu is the exact one."""

    def chosen(self) -> dict[str, Any]:
        """Returns the options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def shape(self, size: str, *, vocabulary_size: int, sequence_length: int, positions: int) -> Any:
        """Returns the config of a new model.

        Args:
            size: the named size that the options change.
            vocabulary_size: number of tokens.
            sequence_length: tokens per example of the data.
            positions: learned positions unless the options name a number; raised to `sequence_length` if below it.

        Raises:
            InputError: an option is out of range, or the data is longer than the positions.
        """
        changes = {"max_sequence_length": max(positions, sequence_length)} | self.chosen()
        try:
            config = self.config_class.from_size(size, vocabulary_size=vocabulary_size, **changes)
        except ValueError as error:
            raise InputError(f"--model.{error}") from error
        if sequence_length > config.max_sequence_length:
            raise InputError(
                f"{self.length_option} {sequence_length} is above --model.max_sequence_length "
                f"{config.max_sequence_length}: lower the one or raise the other"
            )
        return config

    def check_with(self, init: str, *, vocabulary_size: int, sequence_length: int | None) -> Any:
        """Refuses a checkpoint that does not fit, before anything slow is done or much memory is taken.

        Args:
            init: a run, a model directory or a hub id.
            vocabulary_size: one more than the tokenizer's greatest id.
            sequence_length: tokens per example of the data; None for all of the checkpoint's positions.

        Returns:
            The checkpoint's config.

        Raises:
            InputError: the checkpoint is damaged, does not fit the tokenizer or the data, or an option
                would change its shape.
        """
        changed = [name for name in self.chosen() if name != "dropout"]
        if changed:
            raise InputError(
                f"--model.{changed[0]} cannot change a checkpoint: leave it out, or leave --init out"
            )
        shape = check_checkpoint(init, self.config_class)
        if vocabulary_size > shape.vocabulary_size:
            raise InputError(
                f"the tokenizer has {vocabulary_size} tokens, the model of {init} {shape.vocabulary_size}: they "
                "do not belong together; take the tokenizer that the checkpoint came with"
            )
        if sequence_length is not None and sequence_length > shape.max_sequence_length:
            raise InputError(
                f"{self.length_option} {sequence_length} is above the {shape.max_sequence_length} positions of {init}"
            )
        return shape


@dataclass
class BertOptions(_ModelOptions):
    """Changes to a named size of BERT; null keeps the size's own value."""

    config_class = BertConfig
    length_option = "--sequence_length"


@dataclass
class GPTOptions(_ModelOptions):
    """Changes to a named size of GPT; null keeps the size's own value."""

    config_class = GPTConfig
    length_option = "--context_length"

    normalization: Normalization | None = None
    """layer_norm (GPT-2) or rms_norm (Llama)."""

    positions: Positions | None = None
    """learned (GPT-2) or rotary (Llama)."""

    rotary_base: float | None = None
    """Base of rotary positions: the longest wavelength, divided by 2 pi."""

    feed_forward: FeedForward | None = None
    """dense (GPT-2) or gated (SwiGLU with --model.activation silu)."""

    num_key_value_heads: int | None = None
    """Heads of keys and values, a divisor of num_heads (grouped-query attention)."""

    use_bias: bool | None = None
    """Whether projections and layer normalization have biases."""

    tie_embeddings: bool | None = None
    """Whether the output projection is the token embedding's transpose."""


@dataclass(kw_only=True)
class BertStartOptions:
    """Settings for the BERT that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    init: str | None = None
    """A run, model directory or hub id to start from, with its tokenizer; from scratch if null."""

    tokenizer: str | None = None
    """A tokenizer.json or vocab.txt, or a directory or run with one; if null, WordPiece is trained on the data."""

    vocabulary_size: int = field(default=30522, metadata=only_without("init", "tokenizer") | at_least(1))
    """Size of the WordPiece vocabulary to train."""

    lowercase: bool = field(default=True, metadata=only_without("init", "tokenizer"))
    """Whether the trained tokenizer lowercases text."""

    strip_accents: bool | None = field(default=None, metadata=only_without("init", "tokenizer"))
    """Whether it strips accents, and with them vowel signs of Hindi, Thai and others; like --lowercase if null."""

    size: BertSize = field(default="mini", metadata=only_without("init"))
    """Named size of a new model; --model.* options override it."""

    model: BertOptions = field(default_factory=BertOptions)

    sequence_length: int = 128
    """Maximum tokens per example, special tokens included."""

    positions: ClassVar[int] = 512
    """Learned positions of a new model, unless --model.max_sequence_length is given."""

    shortest: ClassVar[int] = 4
    """Smallest `sequence_length` that is allowed."""

    def check_start(self) -> None:
        """Refuses an impossible length or shape of a new model, before anything is read.

        Raises:
            InputError: an option is out of range; the message names it.
        """
        if self.sequence_length < self.shortest:
            raise InputError(
                f"--sequence_length is {self.sequence_length}, it must be at least {self.shortest}"
            )
        if not self.init:
            self._shape(self.vocabulary_size)

    def find_tokenizer(self, texts: Iterable[str]) -> Any:
        """Returns the tokenizer that `--tokenizer` names, that of `--init`, or one trained on texts.

        Args:
            texts: the texts to train on, read only if they are needed.

        Raises:
            InputError: there is no tokenizer, or it does not fit the checkpoint.
        """
        if self.init:
            tokenizer = load_wordpiece(self.tokenizer or resolve_directory(self.init))
            size = vocabulary_size(tokenizer)
            self.model.check_with(self.init, vocabulary_size=size, sequence_length=self.sequence_length)
            return tokenizer
        if self.tokenizer:
            return load_wordpiece(self.tokenizer)
        _say_that_a_tokenizer_is_trained("WordPiece", self.vocabulary_size)
        return train_wordpiece(
            texts, self.vocabulary_size, lowercase=self.lowercase, strip_accents=self.strip_accents
        )

    def make_model(self, model_class: Any, num_tokens: int, **settings: Any) -> Any:
        """Returns a model from the checkpoint, or a new one.

        Args:
            model_class: the class of a BERT with heads.
            num_tokens: vocabulary size of the tokenizer.
            settings: further arguments of the class, such as `seed`.
        """
        if self.init:
            changes = {} if self.model.dropout is None else {"dropout": self.model.dropout}
            return model_class.from_pretrained(self.init, **settings, **changes)
        return model_class(self._shape(num_tokens), **settings)

    def _shape(self, num_tokens: int) -> Any:
        return self.model.shape(
            self.size,
            vocabulary_size=num_tokens,
            sequence_length=self.sequence_length,
            positions=self.positions,
        )


@dataclass(kw_only=True)
class GPTStartOptions:
    """Settings for the GPT that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    init: str | None = None
    """A run, model directory or hub id to start from, with its tokenizer; from scratch if null."""

    tokenizer: str | None = None
    """characters or bpe (trained on --corpus), or a tokenizer.json, vocab.json + merges.txt, directory or run."""

    vocabulary_size: int = field(default=50257, metadata=only_without("init") | at_least(1))
    """Size of the byte-level BPE vocabulary to train."""

    size: GPTSize = field(default="gpt2", metadata=only_without("init"))
    """Named size of a new model; --model.* options override it."""

    model: GPTOptions = field(default_factory=GPTOptions)

    context_length: int = field(default=256, metadata=at_least(1))
    """Tokens per training window, and positions of a new model unless --model.max_sequence_length is given."""

    def check_start(self) -> None:
        """Refuses an impossible shape of a new model, and a tokenizer that would not be used.

        Raises:
            InputError: an option is out of range or has no effect; the message names it.
        """
        if self.init and self.tokenizer in ("characters", "bpe"):
            raise InputError(
                f"--tokenizer {self.tokenizer} trains a new one: leave it out, --init brings its own"
            )
        if not self.init:
            self._new_shape(self.vocabulary_size)

    def find_tokenizer(self, texts: Iterable[str]) -> Any:
        """Returns the tokenizer that `--tokenizer` names, that of `--init`, or one trained on texts.

        Args:
            texts: the texts to train on, read only if they are needed.

        Raises:
            InputError: there is no tokenizer, or it has no token for the end of a text.
        """
        if self.init:
            tokenizer = load_tokenizer(self.tokenizer or resolve_directory(self.init))
        elif self.tokenizer == "characters":
            tokenizer = train_characters(texts)
        elif self.tokenizer in (None, "bpe"):
            _say_that_a_tokenizer_is_trained("byte-level BPE", self.vocabulary_size)
            tokenizer = train_byte_level_bpe(texts, self.vocabulary_size)
        else:
            tokenizer = load_tokenizer(self.tokenizer)
        end_of_text_id(tokenizer)
        return tokenizer

    def find_shape(self, tokenizer: Any) -> GPTConfig:
        """Returns the config of a new model, or that of `--init`, which must fit the tokenizer and the windows.

        Args:
            tokenizer: the model's tokenizer.

        Raises:
            InputError: the checkpoint does not fit.
        """
        size = vocabulary_size(tokenizer)
        if self.init:
            return self.model.check_with(self.init, vocabulary_size=size, sequence_length=self.context_length)
        end = end_of_text_id(tokenizer)
        return dataclasses.replace(self._new_shape(size), end_token_id=end, begin_token_id=end)

    def make_model(self, model_class: Any, shape: GPTConfig, **settings: Any) -> Any:
        """Returns a model from the checkpoint, or a new one.

        Args:
            model_class: `GPTCausalLM`.
            shape: config of a new model.
            settings: further arguments of the class, such as `seed`.
        """
        if self.init:
            changes = {} if self.model.dropout is None else {"dropout": self.model.dropout}
            return model_class.from_pretrained(self.init, **settings, **changes)
        return model_class(shape, **settings)

    def _new_shape(self, num_tokens: int) -> Any:
        return self.model.shape(
            self.size,
            vocabulary_size=num_tokens,
            sequence_length=self.context_length,
            positions=self.context_length,
        )


@dataclass
class Seq2SeqOptions(_ModelOptions):
    """Changes to a named size of an encoder-decoder; null keeps the size's own value."""

    config_class = Seq2SeqConfig
    length_option = "--max_length"

    num_decoder_layers: int | None = None
    """Number of decoder blocks; as many as encoder blocks if null."""

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
class Seq2SeqStartOptions:
    """Settings for the encoder-decoder that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    init: str | None = None
    """A run, model directory or hub id to start from, with its tokenizer; from scratch if null."""

    tokenizer: str | None = None
    """A tokenizer.json, or a directory or run with one; if null, byte-level BPE is trained on both sides."""

    vocabulary_size: int = field(default=8000, metadata=only_without("init", "tokenizer") | at_least(1))
    """Size of the byte-level BPE vocabulary to train, for source and target together."""

    separate_tokenizers: bool = field(default=False, metadata=only_without("init", "tokenizer"))
    """Train on each side apart, each with half of the pieces; by default one tokenizer divides both."""

    size: Seq2SeqSize = field(default="mini", metadata=only_without("init"))
    """Named size of a new model; --model.* options override it."""

    model: Seq2SeqOptions = field(default_factory=Seq2SeqOptions)

    max_length: int = field(default=128, metadata=at_least(2))
    """Maximum tokens of a source, and of a target, with the end token; positions of a new model."""

    def check_start(self) -> None:
        """Refuses an impossible shape of a new model, before anything is read.

        Raises:
            InputError: an option is out of range; the message names it.
        """
        if not self.init:
            self._new_shape(self.vocabulary_size)

    def find_tokenizer(self, sources: list[str], targets: list[str], tags: list[str]) -> Any:
        """Returns the tokenizer that `--tokenizer` names, that of `--init`, or one trained on texts.

        Args:
            sources: the texts to train on, read only if they are needed.
            targets: those of the other side.
            tags: tokens that the vocabulary must have.

        Raises:
            InputError: there is no tokenizer, or it lacks a token.
        """
        if not self.init and not self.tokenizer:
            if self.separate_tokenizers:
                return train_separate_bpe(sources, targets, self.vocabulary_size, tags=tags)
            return train_parallel_bpe([*sources, *targets], self.vocabulary_size, tags=tags)
        place = self.tokenizer or self.init
        tokenizer = load_tokenizer(self.tokenizer or resolve_directory(self.init or ""))
        missing = [tag for tag in tags if tokenizer.token_to_id(tag) is None]
        if missing:
            raise InputError(f"{place}: the vocabulary lacks the tag {missing[0]}; leave out --target_tag")
        return tokenizer

    def find_shape(self, tokenizer: Any) -> Seq2SeqConfig:
        """Returns the config of a new model, or that of `--init`, which must fit the tokenizer.

        Args:
            tokenizer: the model's tokenizer.

        Raises:
            InputError: the checkpoint does not fit, or the tokenizer has no token for padding.
        """
        size = vocabulary_size(tokenizer)
        if self.init:
            return self.model.check_with(self.init, vocabulary_size=size, sequence_length=self.max_length)
        padding = padding_id(tokenizer)
        return dataclasses.replace(
            self._new_shape(size), end_token_id=end_of_text_id(tokenizer), pad_token_id=padding
        )

    def make_model(self, model_class: Any, shape: Seq2SeqConfig, **settings: Any) -> Any:
        """Returns a model from the checkpoint, or a new one.

        Args:
            model_class: `Seq2SeqLM`.
            shape: config of a new model.
            settings: further arguments of the class, such as `seed`.
        """
        if self.init:
            changes = {} if self.model.dropout is None else {"dropout": self.model.dropout}
            return model_class.from_pretrained(self.init, **settings, **changes)
        return model_class(shape, **settings)

    def _new_shape(self, num_tokens: int) -> Any:
        return self.model.shape(
            self.size,
            vocabulary_size=num_tokens,
            sequence_length=self.max_length,
            positions=self.max_length,
        )


@dataclass(kw_only=True)
class LowRankOptions:
    """Settings of low-rank adapters."""

    group: ClassVar[str] = "model"

    lora_rank: int = field(default=0, metadata=at_least(0))
    """Above 0, train only low-rank adapters of this rank (and new heads); they are merged into the saved model."""

    lora_alpha: float | None = field(default=None, metadata=above(0))
    """The adapters' output is scaled by alpha / rank; alpha is twice the rank if null."""

    def check_adapters(self, init: str | None) -> None:
        """Refuses adapters of a new model, and a scale of adapters if there are none.

        Args:
            init: the checkpoint that is adapted; None for a new model.

        Raises:
            InputError: `--lora_rank` is given for a new model, or `--lora_alpha` without it.
        """
        if self.lora_rank and not init:
            raise InputError(f"--lora_rank {self.lora_rank} adapts a checkpoint: name it with --init")
        if self.lora_alpha is not None and not self.lora_rank:
            raise InputError(
                f"--lora_alpha {self.lora_alpha} means nothing without --lora_rank: give that too"
            )

    @property
    def adapters(self) -> dict[str, Any]:
        """The arguments of a model that are options of this group."""
        return {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}


@dataclass(kw_only=True)
class AdapterOptions(LowRankOptions):
    """Settings for how a checkpoint is trained: its dropout, and low-rank adapters."""

    group: ClassVar[str] = "model"

    dropout: float | None = field(default=None, metadata=within(0, 1))
    """Dropout in place of the checkpoint's; null keeps that."""

    seed: int = 0

    @property
    def model_settings(self) -> dict[str, Any]:
        """The arguments of `from_pretrained` that are options of this group."""
        changes = {} if self.dropout is None else {"dropout": self.dropout}
        return {**self.adapters, "seed": self.seed, **changes}


def _say_that_a_tokenizer_is_trained(kind: str, size: int) -> None:
    print(f"training a {kind} tokenizer of at most {size:,} tokens …", flush=True)
