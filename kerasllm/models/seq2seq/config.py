"""The config of an encoder-decoder, which its checkpoints record, and the named sizes.

Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, table 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from kerasllm.errors import short
from kerasllm.models.config_checks import check_numbers, check_token

SEQ2SEQ_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"num_layers": 2, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 512},
    "mini": {"num_layers": 3, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 512},
    "small": {"num_layers": 6, "num_heads": 4, "hidden_dim": 512, "intermediate_dim": 1024},
    "base": {"num_layers": 6, "num_heads": 8, "hidden_dim": 512, "intermediate_dim": 2048},
    "big": {"num_layers": 6, "num_heads": 16, "hidden_dim": 1024, "intermediate_dim": 4096, "dropout": 0.3},
}
"""Two small sizes, fairseq's size for small corpora, and the base and big models of the paper."""

Positions = Literal["sinusoidal", "learned"]
Normalization = Literal["layer_norm", "rms_norm"]
FeedForward = Literal["dense", "gated"]

_SIZES = (
    "vocabulary_size",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "max_sequence_length",
)
_LONGEST = 2**26


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The architecture of a Transformer encoder-decoder; the defaults are the paper's base model.

    Source and target share a vocabulary and a table of embeddings.

    Args:
        vocabulary_size: number of tokens in the vocabulary.
        num_layers: number of encoder blocks.
        num_decoder_layers: number of decoder blocks; the default is `num_layers`.
        num_heads: number of attention heads in a block.
        hidden_dim: width of the hidden states; must be even and divisible by `num_heads`.
        intermediate_dim: width of the feed-forward network; the default is 4 * hidden_dim.
        max_sequence_length: the most tokens of a source, and of a target.
        dropout: dropout rate of the embeddings and of the residual branches.
        attention_dropout: dropout rate of the attention probabilities.
        activation: "relu", "gelu" (exact), "gelu_tanh", "silu" or another Keras activation.
        normalize_first: whether norms stand before the branches (with a last norm after the blocks), and not after the
            sums (Xiong et al. 2020, https://arxiv.org/abs/2002.04745).
        normalization: "layer_norm" or "rms_norm".
        layer_norm_epsilon: number added to every variance, or mean square, in normalization.
        positions: "sinusoidal", sines in the first half of the width and cosines in the second, or "learned".
        scale_embedding: whether token embeddings are multiplied by sqrt(hidden_dim).
        feed_forward: "dense", or "gated" (Shazeer 2020, https://arxiv.org/abs/2002.05202).
        tie_embeddings: whether the output projection is the transpose of the token embedding.
        initializer_range: standard deviation of the initial values; the default is 0.02, and that of token embeddings
            that are scaled is hidden_dim ** -0.5.
        pad_token_id: the padding token, which also begins a target. Its embedding is zero and stays so. By default it
            is the last token, as CTranslate2 expects it.
        end_token_id: the token that ends a source and a target.

    Raises:
        ValueError: a setting is out of range, or two contradict each other. The message begins with a setting's name.
    """

    vocabulary_size: int = 32000
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    hidden_dim: int = 512
    intermediate_dim: int | None = None
    max_sequence_length: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation: str = "relu"
    normalize_first: bool = False
    normalization: Normalization = "layer_norm"
    layer_norm_epsilon: float = 1e-5
    positions: Positions = "sinusoidal"
    scale_embedding: bool = True
    feed_forward: FeedForward = "dense"
    tie_embeddings: bool = True
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    end_token_id: int = 0

    def __post_init__(self) -> None:
        defaults = {
            "num_decoder_layers": self.num_layers,
            "intermediate_dim": 4 * self.hidden_dim if isinstance(self.hidden_dim, Integral) else None,
            "pad_token_id": (
                self.vocabulary_size - 1 if isinstance(self.vocabulary_size, Integral) else None
            ),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or not 1 <= int(value) < _LONGEST:
                raise ValueError(f"{name} is {short(value)}, it must be a whole number of at least 1")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name} is {short(value)}, it must lie in [0, 1)")
        check_numbers(self)
        choices = {"normalization": Normalization, "positions": Positions, "feed_forward": FeedForward}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} is {short(getattr(self, name))}, known are {', '.join(get_args(kind))}"
                )
        for name in ("normalize_first", "scale_embedding"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {short(getattr(self, name))}, it must be true or false")
        for name in ("pad_token_id", "end_token_id"):
            check_token(name, getattr(self, name))
            if int(getattr(self, name)) >= self.vocabulary_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, the vocabulary has {self.vocabulary_size}"
                )
        if self.pad_token_id == self.end_token_id:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}, the end token; padding needs a token of its own"
            )
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} does not divide by num_heads {self.num_heads}: "
                "choose one that is a multiple of the other"
            )
        if self.positions == "sinusoidal" and self.hidden_dim % 2:
            raise ValueError(f"hidden_dim is {self.hidden_dim}, with sinusoidal positions it must be even")

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens at which generation stops."""
        return (self.end_token_id,)

    @property
    def head_dim(self) -> int:
        """The width of an attention head."""
        return self.hidden_dim // self.num_heads

    @classmethod
    def from_size(cls, size: str, **changes: Any) -> Seq2SeqConfig:
        """Returns the config of a named size (`SEQ2SEQ_SIZES`), with `changes` to its fields.

        Raises:
            ValueError: there is no such size.
        """
        if size not in SEQ2SEQ_SIZES:
            raise ValueError(f"there is no size {size!r}: choose one of {', '.join(SEQ2SEQ_SIZES)}")
        return cls(**(SEQ2SEQ_SIZES[size] | changes))
