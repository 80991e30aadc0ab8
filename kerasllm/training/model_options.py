"""The `--model.*` options: what a user may change of a named size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from kerasllm.errors import InputError
from kerasllm.models import BertConfig, GPTConfig
from kerasllm.models.gpt.config import FeedForward, Normalization, Positions
from kerasllm.models.registry import check_checkpoint

GPTSize = Literal[
    "gpt2",
    "gpt2_medium",
    "gpt2_large",
    "gpt2_xl",
    "gpt3_small",
    "gpt3_medium",
    "gpt3_large",
    "gpt3_xl",
    "gpt3_2.7b",
    "gpt3_6.7b",
    "gpt3_13b",
    "gpt3_175b",
]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass
class _ModelOptions:
    """What the families share."""

    config_class: ClassVar[Any]
    length_option: ClassVar[str]

    num_layers: int | None = None
    """Number of blocks."""

    num_heads: int | None = None
    """Attention heads a block."""

    hidden_dim: int | None = None
    """Width."""

    intermediate_dim: int | None = None
    """Width inside the feed-forward network; 4 * hidden_dim if null."""

    dropout: float | None = None
    """Dropout of embeddings, residuals and attention."""

    max_sequence_length: int | None = None
    """Number of learned positions."""

    activation: Activation | None = None
    """gelu is the exact one."""

    def chosen(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def shape(self, size: str, *, vocabulary_size: int, sequence_length: int, positions: int) -> Any:
        """The shape of a new model.

        Args:
            size: the named size that the options change.
            vocabulary_size: number of tokens.
            sequence_length: of the data.
            positions: learned positions where the options name none; at least `sequence_length`.

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
        """Refuses a checkpoint that does not fit, before anything slow is done or much memory taken.

        Args:
            init: a run, a model directory or a hub id.
            vocabulary_size: one more than the tokenizer's greatest id.
            sequence_length: of the data; None for as long as the checkpoint takes.

        Returns:
            The checkpoint's shape.

        Raises:
            InputError: the checkpoint is damaged, does not fit the tokenizer or the data, or an option
                would change its shape.
        """
        changed = [name for name in self.chosen() if name != "dropout"]
        if changed:
            raise InputError(
                f"--model.{changed[0]} cannot change a checkpoint: leave it out, or leave --init out"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"--model.dropout is {self.dropout}, it must lie in [0, 1)")
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
    """Overrides of a named size; null keeps the size's own value."""

    config_class = BertConfig
    length_option = "--sequence_length"


@dataclass
class GPTOptions(_ModelOptions):
    """Overrides of a named size; null keeps the size's own value."""

    config_class = GPTConfig
    length_option = "--context_length"

    normalization: Normalization | None = None
    """layer_norm (GPT-2) or rms_norm (Llama)."""

    positions: Positions | None = None
    """learned (GPT-2) or rotary (Llama)."""

    rotary_base: float | None = None
    """Longest wave length of rotary positions, over 2 pi."""

    feed_forward: FeedForward | None = None
    """dense (GPT-2) or gated (SwiGLU with --model.activation silu)."""

    num_key_value_heads: int | None = None
    """Heads of keys and values, a divisor of the heads (grouped-query attention)."""

    use_bias: bool | None = None
    """Whether projections and layer normalisation have biases."""

    tie_embeddings: bool | None = None
    """Whether the output projection is the token embedding's transpose."""
