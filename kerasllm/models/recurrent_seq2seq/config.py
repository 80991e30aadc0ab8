"""The config of a recurrent encoder-decoder, which its checkpoints record, and the named sizes."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, get_args

from kerasllm.errors import short
from kerasllm.models.config_checks import check_token
from kerasllm.models.recurrent.config import Cell

RECURRENT_SEQ2SEQ_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"num_layers": 1, "hidden_dim": 128},
    "mini": {"num_layers": 1, "hidden_dim": 256},
    "small": {"num_layers": 2, "hidden_dim": 512},
    "base": {"num_layers": 4, "hidden_dim": 1000},
}
"""Named sizes; the last is that of Luong et al. 2015."""

_LONGEST = 2**26


@dataclass(frozen=True)
class RecurrentSeq2SeqConfig:
    """The architecture of a recurrent encoder-decoder with attention.

    Args:
        vocabulary_size: number of tokens, of source and target together.
        cell: "lstm", "gru" or "rnn".
        num_layers: number of layers of the encoder, which reads in both directions, and of the decoder.
        hidden_dim: units of a layer, in each direction, and width of the embeddings, which are shared with the output.
        dropout: locked dropout of the embeddings, between layers and of the output.
        max_sequence_length: the most tokens of a source, and of a target.
        initializer_range: standard deviation of the initial embeddings.
        end_token_id: the token that ends a source and a target.
        pad_token_id: the token of padding, with which a target begins; the last one if None.

    Raises:
        ValueError: a setting is out of range. The message begins with its name.
    """

    vocabulary_size: int = 8000
    cell: Cell = "lstm"
    num_layers: int = 1
    hidden_dim: int = 256
    dropout: float = 0.1
    max_sequence_length: int = 512
    initializer_range: float = 0.05
    end_token_id: int = 0
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.cell not in get_args(Cell):
            raise ValueError(f"cell is {short(self.cell)}, it must be one of {', '.join(get_args(Cell))}")
        for name in ("vocabulary_size", "num_layers", "hidden_dim", "max_sequence_length"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or not 1 <= int(value) < _LONGEST:
                raise ValueError(f"{name} is {short(value)}, it must be a whole number of at least 1")
        for name, most in (("dropout", 1.0), ("initializer_range", 1e30)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < most:
                raise ValueError(f"{name} is {short(value)}, it must lie in [0, {most:g})")
        if self.pad_token_id is None:
            object.__setattr__(self, "pad_token_id", self.vocabulary_size - 1)
        for name in ("end_token_id", "pad_token_id"):
            check_token(name, getattr(self, name))
            if getattr(self, name) >= self.vocabulary_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, the vocabulary has {self.vocabulary_size}"
                )
        if self.pad_token_id == self.end_token_id:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}, the end token; padding needs a token of its own"
            )

    @property
    def kind(self) -> str:
        """The cell as `RecurrentLayer` names it."""
        return "rnn_tanh" if self.cell == "rnn" else self.cell

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens at which generation stops."""
        return (self.end_token_id,)

    @classmethod
    def from_size(cls, size: str, **changes: Any) -> RecurrentSeq2SeqConfig:
        """Returns the config of a named size (`RECURRENT_SEQ2SEQ_SIZES`), with `changes` to its fields.

        Raises:
            ValueError: there is no such size.
        """
        if size not in RECURRENT_SEQ2SEQ_SIZES:
            raise ValueError(f"there is no size {size!r}: choose one of {', '.join(RECURRENT_SEQ2SEQ_SIZES)}")
        return cls(**(RECURRENT_SEQ2SEQ_SIZES[size] | changes))
