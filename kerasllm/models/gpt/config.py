"""The config of a GPT, which its checkpoints record, and the named sizes.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; for GPT-3's sizes: Brown
et al. 2020, https://arxiv.org/abs/2005.14165, table 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from kerasllm.errors import short
from kerasllm.models.config_checks import check_numbers, check_token

GPT_SIZES: dict[str, dict[str, int]] = {
    "gpt2": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "gpt2_medium": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
    "gpt2_large": {"num_layers": 36, "num_heads": 20, "hidden_dim": 1280},
    "gpt2_xl": {"num_layers": 48, "num_heads": 25, "hidden_dim": 1600},
    "gpt3_small": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "max_sequence_length": 2048},
    "gpt3_medium": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "max_sequence_length": 2048},
    "gpt3_large": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1536, "max_sequence_length": 2048},
    "gpt3_xl": {"num_layers": 24, "num_heads": 16, "hidden_dim": 2048, "max_sequence_length": 2048},
    "gpt3_2.7b": {"num_layers": 32, "num_heads": 32, "hidden_dim": 2560, "max_sequence_length": 2048},
    "gpt3_6.7b": {"num_layers": 32, "num_heads": 32, "hidden_dim": 4096, "max_sequence_length": 2048},
    "gpt3_13b": {"num_layers": 40, "num_heads": 40, "hidden_dim": 5120, "max_sequence_length": 2048},
    "gpt3_175b": {"num_layers": 96, "num_heads": 96, "hidden_dim": 12288, "max_sequence_length": 2048},
}
"""The four sizes of GPT-2, and the sizes of GPT-3.

The paper gives "XL" 24 heads of 128 for a width of 2,048 and "13B" a width of 5,140 with 40 heads of 128.
Neither product is the width, so XL has 16 heads of 128 here, and 13B has a width of 5,120.
"""

Normalization = Literal["layer_norm", "rms_norm"]
Positions = Literal["learned", "rotary"]
FeedForward = Literal["dense", "gated"]

_SIZES = (
    "hidden_dim",
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "intermediate_dim",
    "max_sequence_length",
)

_LONGEST = 2**26


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a GPT; the defaults are GPT-2's.

    A Llama is `normalization="rms_norm", positions="rotary", feed_forward="gated", activation="silu",
    use_bias=False`, usually with `num_key_value_heads` and `tie_embeddings=False`.

    Args:
        vocabulary_size: number of tokens in the vocabulary.
        num_layers: number of decoder blocks.
        num_heads: number of attention heads in a block.
        hidden_dim: width of the hidden states; must be divisible by `num_heads`.
        intermediate_dim: width of the feed-forward network; the default is 4 * hidden_dim.
        max_sequence_length: number of learned positions, or the longest context with rotary positions.
        dropout: dropout rate of the residual branches.
        attention_dropout: dropout rate of the attention probabilities; the default is `dropout`.
        embedding_dropout: dropout rate of the sum of the embeddings; the default is `dropout`.
        activation: "gelu_tanh", "gelu" (exact), or another Keras activation.
        normalization: "layer_norm", or "rms_norm" (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).
        layer_norm_epsilon: number added to every variance, or mean square, in normalization.
        positions: "learned", or "rotary" (Su et al. 2021, https://arxiv.org/abs/2104.09864).
        rotary_base: the base of the rotary frequencies, `rope_theta` in `transformers`.
        feed_forward: "dense", or "gated" (SwiGLU with "silu"; Shazeer 2020, https://arxiv.org/abs/2002.05202).
        num_key_value_heads: number of key and value heads, a divisor of `num_heads` (grouped-query attention,
            Ainslie et al. 2023, https://arxiv.org/abs/2305.13245); the default is `num_heads`.
        use_bias: whether projections and layer normalization have biases.
        tie_embeddings: whether the output projection is the transpose of the token embedding.
        initializer_range: standard deviation of the initial values; for the projections back into the residual
            stream it is divided by sqrt(2 * num_layers).
        end_token_id: the token at which generation stops, or None.
        more_end_token_ids: further tokens at which generation stops.
        begin_token_id: the token at the beginning of a text; it is only recorded.
        pad_token_id: the padding token; it is only recorded.

    Raises:
        ValueError: a setting is out of range, or two contradict each other. The message begins with a setting's name.
    """

    vocabulary_size: int = 50257
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    intermediate_dim: int | None = None
    max_sequence_length: int = 1024
    dropout: float = 0.1
    attention_dropout: float | None = None
    embedding_dropout: float | None = None
    activation: str = "gelu_tanh"
    normalization: Normalization = "layer_norm"
    layer_norm_epsilon: float = 1e-5
    positions: Positions = "learned"
    rotary_base: float = 10_000.0
    feed_forward: FeedForward = "dense"
    num_key_value_heads: int | None = None
    use_bias: bool = True
    tie_embeddings: bool = True
    initializer_range: float = 0.02
    end_token_id: int | None = None
    more_end_token_ids: tuple[int, ...] = ()
    begin_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.intermediate_dim is None and isinstance(self.hidden_dim, Integral):
            object.__setattr__(self, "intermediate_dim", 4 * self.hidden_dim)
        for name in ("attention_dropout", "embedding_dropout"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.dropout)
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_heads)
        for name in (*_SIZES, "num_key_value_heads"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, it must be a whole number of at least 1")
        for name in ("dropout", "attention_dropout", "embedding_dropout"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}, it must lie in [0, 1)")
        check_numbers(self)
        if not isinstance(self.more_end_token_ids, list | tuple):
            raise ValueError(f"more_end_token_ids is {short(self.more_end_token_ids)}, it must be a list")
        object.__setattr__(self, "more_end_token_ids", tuple(self.more_end_token_ids))
        tokens = {"end_token_id": self.end_token_id, "begin_token_id": self.begin_token_id}
        for name, token in tokens.items():
            if token is not None:
                check_token(name, token)
        for token in self.more_end_token_ids:
            check_token("more_end_token_ids", token)
        if self.pad_token_id is not None:
            check_token("pad_token_id", self.pad_token_id, least=-1)  # some files have -1 for none
        base = self.rotary_base
        if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < 1e30:
            raise ValueError(f"rotary_base is {short(base)}, it must be a number above 0")
        for name, choices in (
            ("normalization", Normalization),
            ("positions", Positions),
            ("feed_forward", FeedForward),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(get_args(choices))}"
                )
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} does not divide by num_heads {self.num_heads}: "
                "choose one that is a multiple of the other"
            )
        if self.num_heads % self.key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide num_heads {self.num_heads}"
            )
        # No weight has that length in its shape, so nothing else would catch an absurd value.
        if self.positions == "rotary" and self.max_sequence_length > _LONGEST:
            raise ValueError(f"max_sequence_length is {self.max_sequence_length}: no text is as long as that")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"positions are rotary, which needs an even head width, not {self.head_dim} "
                f"(hidden_dim {self.hidden_dim} / num_heads {self.num_heads})"
            )

    @property
    def head_dim(self) -> int:
        """The width of an attention head."""
        return self.hidden_dim // self.num_heads

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens at which generation stops, without those beyond the vocabulary."""
        ends = (
            self.more_end_token_ids
            if self.end_token_id is None
            else (self.end_token_id, *self.more_end_token_ids)
        )
        return tuple(token for token in ends if token < self.vocabulary_size)

    @property
    def key_value_heads(self) -> int:
        """The number of key and value heads: `num_key_value_heads`, but never None."""
        return self.num_key_value_heads or self.num_heads

    @classmethod
    def from_size(cls, size: str, **changes: Any) -> GPTConfig:
        """Returns the config of a named size (`GPT_SIZES`), with `changes` to its fields.

        Raises:
            ValueError: there is no such size.
        """
        if size not in GPT_SIZES:
            raise ValueError(f"there is no size {size!r}: choose one of {', '.join(GPT_SIZES)}")
        return cls(**(GPT_SIZES[size] | changes))
