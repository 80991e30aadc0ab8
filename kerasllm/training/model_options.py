"""The `--model.*` options: what a user may change of a named size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kerasllm.checkpoints import check_checkpoint
from kerasllm.errors import InputError
from kerasllm.models import BertConfig


@dataclass
class ModelOptions:
    """Overrides of a named size; null keeps the size's own value."""

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

    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] | None = None
    """gelu is the exact one."""

    def chosen(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def shape(self, size: str, *, vocabulary_size: int, sequence_length: int, positions: int) -> BertConfig:
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
            config = BertConfig.from_size(size, vocabulary_size=vocabulary_size, **changes)
        except ValueError as error:
            raise InputError(f"--model.{error}") from error
        if sequence_length > config.max_sequence_length:
            raise InputError(
                f"--sequence_length {sequence_length} is above --model.max_sequence_length "
                f"{config.max_sequence_length}: lower the one or raise the other"
            )
        return config

    def check_with(self, init: str, *, vocabulary_size: int, sequence_length: int) -> None:
        """Refuses a checkpoint that does not fit, before anything slow is done or much memory taken.

        Args:
            init: a run, a model directory or a hub id.
            vocabulary_size: one more than the tokenizer's greatest id.
            sequence_length: of the data.

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
        shape = check_checkpoint(init)
        if vocabulary_size > shape.vocabulary_size:
            raise InputError(
                f"the tokenizer has {vocabulary_size} tokens, the model of {init} {shape.vocabulary_size}: they "
                "do not belong together; take the tokenizer that the checkpoint came with"
            )
        if sequence_length > shape.max_sequence_length:
            raise InputError(
                f"--sequence_length {sequence_length} is above the {shape.max_sequence_length} positions of {init}"
            )
