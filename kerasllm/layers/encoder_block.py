"""The encoder block as one layer with raw weights: on torch, half the time of a small model built from many
Keras layers goes into entering and leaving them.
"""

from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import self_attention
from kerasllm.layers.feed_forward import activate, dense
from kerasllm.layers.gather import take_columns
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.projections import add_and_normalize, add_norm, add_projection, project


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerEncoderBlock(keras.layers.Layer):
    """Self-attention and a feed-forward network, each followed by a residual sum and layer normalisation.

    Args:
        num_heads: the width of the input must divide by it.
        intermediate_dim: width between the two feed-forward projections.
        activation: name of a Keras activation; "gelu" is the exact one (erf).
        dropout: of both residual branches.
        attention_dropout: of the attention probabilities.
        layer_norm_epsilon: added to the variance.
        standard_deviation: of the initial values.
        seed: of the initial values and the dropout.

    Call with `hidden` (batch, length, hidden_dim) and, optionally, `padding_mask` (batch, length), 1 for real
    tokens, or (batch, length, length) for who may attend to whom. Returns the shape of `hidden`. With `columns`
    int (batch, slots) it computes those alone, of the attention to all: (batch, slots, hidden_dim).

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.1, as in Devlin et al. 2019.
    """

    built: bool

    def __init__(
        self,
        *,
        num_heads: int,
        intermediate_dim: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-12,
        standard_deviation: float = 0.02,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.standard_deviation = standard_deviation
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, hidden_shape, padding_mask_shape=None, columns_shape=None):
        """Creates the weights for an input of width `hidden_shape[-1]`."""
        if self.built:
            return
        width = hidden_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"hidden_dim {width} does not divide by num_heads {self.num_heads}")
        kernels: dict[str, Any] = {"deviation": self.standard_deviation, "truncated": True}
        add_projection(self, "query_key_value", width, 3 * width, **kernels)
        add_projection(self, "attention_output", width, width, **kernels)
        add_norm(self, "attention_norm", width)
        add_projection(self, "intermediate", width, self.intermediate_dim, **kernels)
        add_projection(self, "output", self.intermediate_dim, width, **kernels)
        add_norm(self, "output_norm", width)
        self.built = True

    def call(self, hidden, padding_mask=None, columns=None, training=False):
        """See the class."""
        hidden = backend.boundary(hidden)
        rate, attention_rate = (self.dropout, self.attention_dropout) if training else (0.0, 0.0)
        if columns is None:
            projected = {"query_key_value": project(self, "query_key_value", hidden)}
        else:
            everything, hidden = hidden, take_columns(hidden, columns)
            if padding_mask is not None and len(padding_mask.shape) == 3:
                padding_mask = take_columns(padding_mask, columns)
            projected = self._projected_apart(hidden, everything)
        attended = self_attention(
            **projected,
            num_heads=self.num_heads,
            mask=attention_mask(padding_mask),
            dropout_rate=attention_rate,
            seed_generator=self.seed_generator,
        )
        attended = project(self, "attention_output", attended)
        hidden = self._add_and_norm("attention_norm", hidden, attended, rate)

        wide = activate(
            self.activation, project(self, "intermediate", hidden)
        )  # (batch, length, intermediate_dim)
        narrow = project(self, "output", wide)
        return backend.boundary(self._add_and_norm("output_norm", hidden, narrow, rate))

    def _projected_apart(self, some, everything) -> dict[str, Any]:
        """Queries of some columns, (batch, slots, hidden_dim), keys and values of all."""
        width = some.shape[-1]
        parts = [
            backend.split(ops.convert_to_tensor(weight), (width, 2 * width), axis=-1)
            for weight in (self.query_key_value_kernel, self.query_key_value_bias)
        ]
        (query_kernel, kernel), (query_bias, bias) = parts
        return {
            "query": dense(some, query_kernel, query_bias),
            "key_value": dense(everything, kernel, bias),
        }

    def _add_and_norm(self, name: str, hidden, branch, rate: float):
        norm: dict[str, Any] = {"kind": "layer_norm", "epsilon": self.layer_norm_epsilon}
        return add_and_normalize(self, name, hidden, branch, rate, **norm)[1]

    def compute_output_shape(self, hidden_shape, padding_mask_shape=None, columns_shape=None):
        """(batch, length or slots, hidden_dim)."""
        return (*(columns_shape or hidden_shape[:2]), hidden_shape[-1])

    def get_config(self):
        """The arguments of the constructor."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "standard_deviation": self.standard_deviation,
            "seed": self.seed,
        }


def attention_mask(padding_mask):
    """(batch, length) or (batch, length, length) → boolean, broadcastable over the heads; None stays None."""
    if padding_mask is None:
        return None
    allowed = ops.cast(padding_mask, "bool")
    return allowed[:, None, None, :] if len(allowed.shape) == 2 else allowed[:, None, :, :]
