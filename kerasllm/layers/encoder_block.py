"""The encoder block of Transformers as one layer."""

from functools import partial
from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import Attention, combined_mask
from kerasllm.layers.dropout import CountsCalls, add_dropout
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.positions import gather_positions
from kerasllm.layers.projections import FeedForward, Norm


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerEncoderBlock(CountsCalls, keras.layers.Layer):
    """`x = norm(x + attention(x))`, then `x = norm(x + feed_forward(x))`: each position sees all others.

    With `normalize_first` it is `x = x + attention(norm(x))`, then `x = x + feed_forward(norm(x))`.

    Args:
        num_heads: the width of the input must divide by it.
        intermediate_dim: width between the two feed-forward projections.
        activation: name of a Keras activation; "gelu" is the exact one (erf), "gelu_tanh" its approximation.
        feed_forward: "dense", or "gated": `down(activation(gate(x)) * up(x))`.
        normalize_first: whether norms stand before the branches, and not after the sums.
        normalization: "layer_norm" or "rms_norm".
        layer_norm_epsilon: added to the variance, or the mean square.
        use_bias: whether projections and layer norms have biases.
        dropout: of both residual branches.
        attention_dropout: of the attention probabilities.
        standard_deviation: of the initial values, which are cut at two of them.
        lora_rank: above 0, all but low-rank adapters beside the projections is frozen.
        lora_alpha: the adapters count alpha / rank; twice the rank where left out.
        seed: of the initial values and the dropout.

    Call with `hidden` (batch, length, hidden_dim) and, optionally, `padding_mask` (batch, length), 1 for real
    tokens, or `attention_mask`, boolean, broadcastable to (batch, heads, length, length), True where attention is
    allowed. Returns the shape of `hidden`. With `query_positions` int (batch, slots) it computes those positions
    alone, which attend to all: (batch, slots, hidden_dim).

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.1; Xiong et al. 2020,
    https://arxiv.org/abs/2002.04745, on the place of the norms.
    """

    built: bool

    def __init__(
        self,
        *,
        num_heads: int,
        intermediate_dim: int,
        activation: str = "gelu",
        feed_forward: str = "dense",
        normalize_first: bool = False,
        normalization: str = "layer_norm",
        layer_norm_epsilon: float = 1e-12,
        use_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        standard_deviation: float = 0.02,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.feed_forward = feed_forward
        self.normalize_first = normalize_first
        self.normalization = normalization
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_bias = use_bias
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.standard_deviation = standard_deviation
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha or 2.0 * lora_rank
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, hidden_shape, *other_shapes, **more_shapes):
        """Creates the weights for an input of width `hidden_shape[-1]`."""
        if self.built:
            return
        width = hidden_shape[-1]
        kernels: dict[str, Any] = {
            "deviation": self.standard_deviation,
            "truncated": True,
            "use_bias": self.use_bias,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
        }
        norm = partial(
            Norm,
            self,
            width=width,
            kind=self.normalization,
            epsilon=self.layer_norm_epsilon,
            use_bias=self.use_bias,
            trainable=not self.lora_rank,
        )
        # The order is that of the weights in checkpoints.
        self.attention = Attention(
            self,
            width,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            dropout=self.attention_dropout,
            into=kernels,
            back=kernels,
        )
        self.attention_norm = norm("attention_norm")
        self.feed_forward_network = FeedForward(
            self,
            width,
            self.intermediate_dim,
            activation=self.activation,
            is_gated=self.feed_forward == "gated",
            into=kernels,
            back=kernels,
        )
        self.output_norm = norm("output_norm")
        self.built = True

    def call(self, hidden, padding_mask=None, attention_mask=None, query_positions=None, training=False):
        """See the class."""
        hidden = backend.boundary(hidden)
        mask = combined_mask(padding_mask) if attention_mask is None else attention_mask
        if query_positions is not None and mask is not None and mask.shape[2] != 1:
            mask = ops.take_along_axis(mask, query_positions[:, None, :, None], axis=2)

        def queries(everything):
            return everything if query_positions is None else gather_positions(everything, query_positions)

        def attend(normal):
            return self.attention(queries(normal), normal, mask=mask, training=training)[0]

        def add(hidden, branch):
            rate = self.dropout if training else 0.0
            return add_dropout(hidden, branch, rate, self.seed_generator)

        if self.normalize_first:
            hidden = add(queries(hidden), attend(self.attention_norm(hidden)))
            hidden = add(hidden, self.feed_forward_network(self.output_norm(hidden)))
        else:
            hidden = self.attention_norm(add(queries(hidden), attend(hidden)))
            hidden = self.output_norm(add(hidden, self.feed_forward_network(hidden)))
        return backend.boundary(hidden)

    def compute_output_shape(
        self,
        hidden_shape,
        padding_mask_shape=None,
        attention_mask_shape=None,
        query_positions_shape=None,
    ):
        """Returns (batch, length or slots, hidden_dim)."""
        return (*(query_positions_shape or hidden_shape[:2]), hidden_shape[-1])

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "feed_forward": self.feed_forward,
            "normalize_first": self.normalize_first,
            "normalization": self.normalization,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "standard_deviation": self.standard_deviation,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "seed": self.seed,
        }
