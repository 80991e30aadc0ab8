"""The encoder block as one layer with raw weights: on torch, half the time of a small model built from many
Keras layers goes into entering and leaving them.
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import self_attention
from kerasllm.layers.dropout import dropout
from kerasllm.layers.feed_forward import activate, dense
from kerasllm.layers.initializers import KeyedTruncatedNormal, default_seed


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
    tokens, or (batch, length, length) for who may attend to whom. Returns the shape of `hidden`.

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

    def build(self, hidden_shape, padding_mask_shape=None):
        """Creates the weights for an input of width `hidden_shape[-1]`."""
        if self.built:
            return
        width = hidden_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"hidden_dim {width} does not divide by num_heads {self.num_heads}")
        self._add_dense("query_key_value", width, 3 * width)
        self._add_dense("attention_output", width, width)
        self._add_norm("attention_norm", width)
        self._add_dense("intermediate", width, self.intermediate_dim)
        self._add_dense("output", self.intermediate_dim, width)
        self._add_norm("output_norm", width)
        self.built = True

    def _add_dense(self, name: str, inputs: int, outputs: int) -> None:
        initializer = KeyedTruncatedNormal(self.standard_deviation, self.seed, f"{self.name}/{name}_kernel")
        kernel = self.add_weight(name=f"{name}_kernel", shape=(inputs, outputs), initializer=initializer)
        bias = self.add_weight(name=f"{name}_bias", shape=(outputs,), initializer="zeros")
        setattr(self, f"{name}_kernel", kernel)
        setattr(self, f"{name}_bias", bias)

    def _add_norm(self, name: str, width: int) -> None:
        setattr(
            self, f"{name}_scale", self.add_weight(name=f"{name}_scale", shape=(width,), initializer="ones")
        )
        setattr(
            self, f"{name}_bias", self.add_weight(name=f"{name}_bias", shape=(width,), initializer="zeros")
        )

    def call(self, hidden, padding_mask=None, training=False):
        """See the class."""
        rate, attention_rate = (self.dropout, self.attention_dropout) if training else (0.0, 0.0)
        epsilon = self.layer_norm_epsilon
        attended = self_attention(
            dense(hidden, self.query_key_value_kernel, self.query_key_value_bias),
            num_heads=self.num_heads,
            mask=attention_mask(padding_mask),
            dropout_rate=attention_rate,
            seed_generator=self.seed_generator,
        )
        attended = dense(attended, self.attention_output_kernel, self.attention_output_bias)
        hidden = hidden + dropout(attended, rate, self.seed_generator)
        hidden = backend.layer_norm(hidden, self.attention_norm_scale, self.attention_norm_bias, epsilon)

        wide = dense(hidden, self.intermediate_kernel, self.intermediate_bias)
        wide = activate(self.activation, wide)  # (batch, length, intermediate_dim)
        narrow = dense(wide, self.output_kernel, self.output_bias)
        hidden = hidden + dropout(narrow, rate, self.seed_generator)
        return backend.layer_norm(hidden, self.output_norm_scale, self.output_norm_bias, epsilon)

    def compute_output_shape(self, hidden_shape, padding_mask_shape=None):
        """The shape of the input."""
        return hidden_shape

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
