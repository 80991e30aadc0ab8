"""The `--model.*` options: what a user may change of a named size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


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

    activation: str | None = None
    """gelu (exact), gelu_tanh, relu or silu."""

    def chosen(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}
