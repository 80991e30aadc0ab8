"""The config of a BERT, which its checkpoints record, and the named sizes.

Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; for the small sizes: Turc et al. 2019,
https://arxiv.org/abs/1908.08962.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from kerasllm.models.config_checks import check_numbers, check_token

BERT_SIZES = {
    "tiny": {"num_layers": 2, "num_heads": 2, "hidden_dim": 128},
    "mini": {"num_layers": 4, "num_heads": 4, "hidden_dim": 256},
    "small": {"num_layers": 4, "num_heads": 8, "hidden_dim": 512},
    "medium": {"num_layers": 8, "num_heads": 8, "hidden_dim": 512},
    "base": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "large": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
}


_SIZES = (
    *("hidden_dim", "vocabulary_size", "num_layers", "num_heads", "intermediate_dim"),
    *("max_sequence_length", "num_segments"),
)


@dataclass(frozen=True)
class BertConfig:
    """The architecture of a BERT.

    Args:
        vocabulary_size: number of tokens in the vocabulary.
        num_layers: number of encoder blocks.
        num_heads: number of attention heads in a block.
        hidden_dim: width of the hidden states; must be divisible by `num_heads`.
        intermediate_dim: width of the feed-forward network; the default is 4 * hidden_dim.
        max_sequence_length: number of learned positions.
        num_segments: number of segment embeddings.
        dropout: dropout rate of the embeddings and the residual branches.
        attention_dropout: dropout rate of the attention probabilities; the default is `dropout`.
        classifier_dropout: dropout rate of the pooled output before a classifier; the default is `dropout`.
        activation: "gelu" (exact), "gelu_tanh", or another Keras activation.
        layer_norm_epsilon: number added to every variance in layer normalization.
        initializer_range: standard deviation of the initial values.
        tie_embeddings: whether the masked-LM projection is the transpose of the token embedding.
        pad_token_id: the padding token; it is only recorded.

    Raises:
        ValueError: a size is not a whole number of at least 1, a rate is outside of [0, 1), or `hidden_dim` is not
            divisible by `num_heads`. The message begins with the setting's name.
    """

    vocabulary_size: int = 30522
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    intermediate_dim: int | None = None
    max_sequence_length: int = 512
    num_segments: int = 2
    dropout: float = 0.1
    attention_dropout: float | None = None
    classifier_dropout: float | None = None
    activation: str = "gelu"
    layer_norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    tie_embeddings: bool = True
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        if self.intermediate_dim is None and isinstance(self.hidden_dim, Integral):
            object.__setattr__(self, "intermediate_dim", 4 * self.hidden_dim)
        if self.attention_dropout is None:
            object.__setattr__(self, "attention_dropout", self.dropout)
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, it must be a whole number of at least 1")
        rates = (
            "dropout",
            "attention_dropout",
            *(() if self.classifier_dropout is None else ("classifier_dropout",)),
        )
        for name in rates:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}, it must lie in [0, 1)")
        check_numbers(self)
        check_token("pad_token_id", self.pad_token_id)
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} does not divide by num_heads {self.num_heads}: "
                "choose one that is a multiple of the other"
            )

    @classmethod
    def from_size(cls, size: str, **changes: Any) -> BertConfig:
        """Returns the config of a named size (`BERT_SIZES`), with `changes` to its fields.

        Raises:
            ValueError: there is no such size.
        """
        if size not in BERT_SIZES:
            raise ValueError(f"there is no size {size!r}: choose one of {', '.join(BERT_SIZES)}")
        return cls(**(BERT_SIZES[size] | changes))
