"""Settings of the GPT that a run starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import only_without
from kerasllm.errors import InputError
from kerasllm.models import GPT_SIZES, GPTConfig
from kerasllm.models.gpt.config import FeedForward, Normalization, Positions
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.special_tokens import end_of_text_id
from kerasllm.training.options.start import (
    BYTE_LEVEL_BPE,
    ShapeOptions,
    StartOptions,
    say_that_a_tokenizer_is_trained,
)

GPTSize: Any = Literal[tuple(GPT_SIZES)]


@dataclass
class GPTOptions(ShapeOptions):
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
class GPTStartOptions(StartOptions):
    """Settings for the GPT that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    tokenizer: str | None = None
    """characters or byte_level_bpe (trained on --corpus; the latter if null), or a file, directory or run."""

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
        if self.init and self.tokenizer in ("characters", *BYTE_LEVEL_BPE):
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
            tokenizer = self.tokenizer_of_init(self.tokenizer, load_tokenizer)
        elif self.tokenizer == "characters":
            tokenizer = train_characters(texts)
        elif self.tokenizer in (None, *BYTE_LEVEL_BPE):
            say_that_a_tokenizer_is_trained("byte-level BPE", self.vocabulary_size)
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

    def _new_shape(self, num_tokens: int) -> Any:
        return self.model.shape(
            self.size,
            vocabulary_size=num_tokens,
            sequence_length=self.context_length,
            positions=self.context_length,
        )
