"""The config of a recurrent model, which its checkpoints record, and the named sizes.

Reference: Zaremba et al. 2014, https://arxiv.org/abs/1409.2329 (sizes); Merity et al. 2018,
https://arxiv.org/abs/1708.02182 (dropout).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from kerasllm.errors import short
from kerasllm.models.config_checks import check_token

RECURRENT_SIZES: dict[str, dict[str, Any]] = {
    "small": {"num_layers": 2, "hidden_dim": 200, "embedding_dim": 200},
    "medium": {"num_layers": 2, "hidden_dim": 650, "embedding_dim": 650, "dropout": 0.5},
    "large": {"num_layers": 2, "hidden_dim": 1500, "embedding_dim": 1500, "dropout": 0.65},
}
"""The three sizes of Zaremba et al. for Penn Treebank."""

Cell = Literal["lstm", "gru", "rnn"]
Activation = Literal["tanh", "relu"]
_LONGEST = 2**26


@dataclass(frozen=True)
class RecurrentConfig:
    """The architecture of a recurrent model.

    Args:
        vocabulary_size: number of tokens in the vocabulary.
        cell: "lstm", "gru" or "rnn".
        activation: of an "rnn": "tanh" or "relu".
        num_layers: number of recurrent layers.
        hidden_dim: units of a layer, in each direction.
        embedding_dim: width of the token embeddings; the default is hidden_dim if they are tied, else its half.
        bidirectional: whether a second set of cells reads from the end; not in a language model.
        use_projection: whether a dense layer brings the output to the width of the embeddings.
        tie_embeddings: whether the output projection is the transpose of the token embedding; its width must then be
            that of the output.
        dropout: locked dropout between layers and of the output.
        embedding_dropout: locked dropout of the embeddings; the default is `dropout`.
        weight_drop: share of the recurrent weights that are dropped in training.
        initializer_range: standard deviation of the initial token embeddings; the default is 1, or 0.05 if they are
            tied.
        end_token_id: the token at which generation stops, or None.
        begin_token_id: the token at the beginning of a text; it is only recorded.

    Raises:
        ValueError: a setting is out of range, or two contradict each other. The message begins with a setting's name.
    """

    vocabulary_size: int = 10_000
    cell: Cell = "lstm"
    activation: Activation = "tanh"
    num_layers: int = 1
    hidden_dim: int = 256
    embedding_dim: int | None = None
    bidirectional: bool = False
    use_projection: bool = False
    tie_embeddings: bool = False
    dropout: float = 0.0
    embedding_dropout: float | None = None
    weight_drop: float = 0.0
    initializer_range: float | None = None
    end_token_id: int | None = None
    begin_token_id: int | None = None

    def __post_init__(self) -> None:
        flags = ("bidirectional", "use_projection", "tie_embeddings")
        for name in flags:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {short(getattr(self, name))}, it must be true or false")
        for name, kind in {"cell": Cell, "activation": Activation}.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} is {short(getattr(self, name))}, it must be one of {', '.join(get_args(kind))}"
                )
        if self.embedding_dim is None and isinstance(self.hidden_dim, Integral):
            width = self.hidden_dim if self.tie_embeddings else max(self.hidden_dim // 2, 1)
            object.__setattr__(self, "embedding_dim", width)
        if self.embedding_dropout is None:
            object.__setattr__(self, "embedding_dropout", self.dropout)
        if self.initializer_range is None:
            object.__setattr__(self, "initializer_range", 0.05 if self.tie_embeddings else 1.0)
        for name in ("vocabulary_size", "num_layers", "hidden_dim", "embedding_dim"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or not 1 <= int(value) < _LONGEST:
                raise ValueError(f"{name} is {short(value)}, it must be a whole number of at least 1")
        for name in ("dropout", "embedding_dropout", "weight_drop"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name} is {short(value)}, it must lie in [0, 1)")
        spread = self.initializer_range
        if isinstance(spread, bool) or not isinstance(spread, int | float) or not 0 <= spread < 1e30:
            raise ValueError(f"initializer_range is {short(spread)}, it must be a number of at least 0")
        if self.activation != "tanh" and self.cell != "rnn":
            raise ValueError(f"activation is {self.activation}, which only the cell 'rnn' can have")
        for name in ("end_token_id", "begin_token_id"):
            if getattr(self, name) is not None:
                check_token(name, getattr(self, name))
        if self.tie_embeddings and self.output_dim != self.embedding_dim:
            raise ValueError(
                f"tie_embeddings needs an output as wide as the embedding, not {self.output_dim} and "
                f"{self.embedding_dim}: set use_projection, or embedding_dim"
            )

    @property
    def kind(self) -> str:
        """The cell as `RecurrentLayer` names it."""
        return f"rnn_{self.activation}" if self.cell == "rnn" else self.cell

    @property
    def output_dim(self) -> int:
        """The width of the output."""
        wide = self.hidden_dim * (1 + self.bidirectional)
        return self.embedding_dim or wide if self.use_projection else wide

    @property
    def max_sequence_length(self) -> int:
        """A million: a state has no positions, and so no end."""
        return 1_000_000

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens at which generation stops."""
        return () if self.end_token_id is None else (self.end_token_id,)

    @classmethod
    def from_size(cls, size: str, **changes: Any) -> RecurrentConfig:
        """Returns the config of a named size (`RECURRENT_SIZES`), with `changes` to its fields.

        Raises:
            ValueError: there is no such size.
        """
        if size not in RECURRENT_SIZES:
            raise ValueError(f"there is no size {size!r}: choose one of {', '.join(RECURRENT_SIZES)}")
        return cls(**(RECURRENT_SIZES[size] | changes))
