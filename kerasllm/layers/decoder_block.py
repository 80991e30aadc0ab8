"""The decoder block of Transformers as one layer: GPT-2's, by its options Llama's, and an encoder-decoder's."""

from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import Attention, Cache
from kerasllm.layers.dropout import CountsCalls, add_dropout
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.projections import FeedForward, Norm


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerDecoderBlock(CountsCalls, keras.layers.Layer):
    """`x = x + attention(norm(x))`, then `x = x + feed_forward(norm(x))`; no position sees a later one.

    Without `normalize_first` it is `x = norm(x + attention(x))`, then `x = norm(x + feed_forward(x))`. With
    `cross_attention`, attention to an encoder's output stands between the two in the same way.

    Args:
        num_heads: the width of the input must divide by it.
        intermediate_dim: width inside the feed-forward network.
        num_key_value_heads: heads of keys and values, each shared by several queries' heads; `num_heads` where
            left out.
        activation: name of a Keras activation; "gelu" is the exact one (erf), "gelu_tanh", GPT-2's, its approximation.
        feed_forward: "dense", or "gated": `down(activation(gate(x)) * up(x))`.
        normalize_first: whether norms stand before the branches, and not after the sums.
        normalization: "layer_norm" or "rms_norm".
        layer_norm_epsilon: added to the variance, or the mean square.
        use_bias: whether projections and layer norms have biases.
        cross_attention: whether there is attention to an encoder's output, with heads as the other has.
        dropout: of all residual branches.
        attention_dropout: of the attention probabilities.
        standard_deviation: of the initial values.
        residual_deviation: of those of the projections into the residual stream; the same where left out.
        lora_rank: above 0, all but low-rank adapters beside the projections is frozen.
        lora_alpha: the adapters count alpha / rank; twice the rank where left out.
        seed: of the initial values and the dropout.

    Call with `hidden` (batch, length, hidden_dim) and, optionally, `attention_mask`, boolean, broadcastable to
    (batch, heads, queries, keys), which then decides alone who attends to whom; and `rotary`, the tables of
    `kerasllm.layers.positions`. Cross-attention takes `encoder_hidden` (batch, encoder_length, hidden_dim) and,
    optionally, `cross_attention_mask`, boolean, broadcastable to (batch, heads, queries, encoder_length). Returns the
    shape of `hidden`.

    With a `cache` (keys and values, each (batch * key_value_heads, capacity, head_dim)) and an int scalar
    `cache_position`, the keys and values of this call go to the cache from that column on, and (hidden, cache)
    comes back. A single query attends to the whole cache, as the mask allows, which must then be broadcastable to
    (batch, 1, 1, capacity); several are taken for the beginning of the sequences and attend to one another. With a
    `cross_cache`, made by `cross_keys_and_values` once for all steps, `encoder_hidden` is left out.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.1; Radford et al. 2019; Touvron et al.
    2023, https://arxiv.org/abs/2302.13971.
    """

    built: bool

    def __init__(
        self,
        *,
        num_heads: int,
        intermediate_dim: int,
        num_key_value_heads: int | None = None,
        activation: str = "gelu_tanh",
        feed_forward: str = "dense",
        normalize_first: bool = True,
        normalization: str = "layer_norm",
        layer_norm_epsilon: float = 1e-5,
        use_bias: bool = True,
        cross_attention: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        standard_deviation: float = 0.02,
        residual_deviation: float | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads or num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.feed_forward = feed_forward
        self.normalize_first = normalize_first
        self.normalization = normalization
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_bias = use_bias
        self.cross_attention = cross_attention
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.standard_deviation = standard_deviation
        self.residual_deviation = residual_deviation or standard_deviation
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha or 2.0 * lora_rank
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        # Keras would cast the rotary tables to the type computed in.
        self._convert_input_args, self._allow_non_tensor_positional_args = False, True

    def __call__(self, hidden, *args, **kwargs):
        """Calls the layer, of whose inputs Keras then sees the first one's shape, which it builds the layer for."""
        hidden = ops.convert_to_tensor(hidden) if isinstance(hidden, np.ndarray) else hidden
        return super().__call__(hidden, *args, **kwargs)

    def build(self, hidden_shape, *other_shapes, **more_shapes):
        """Creates the weights for an input of width `hidden_shape[-1]`."""
        if self.built:
            return
        width = hidden_shape[-1]
        common = {"use_bias": self.use_bias, "lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
        projections: dict[str, Any] = {
            "into": {"deviation": self.standard_deviation, **common},
            "back": {"deviation": self.residual_deviation, **common},
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
        attention = partial(
            Attention,
            self,
            width,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            dropout=self.attention_dropout,
            **projections,
        )
        # The order is that of the weights in checkpoints.
        self.attention_norm = norm("attention_norm")
        self.attention_to_itself = attention()
        if self.cross_attention:
            self.cross_attention_norm = norm("cross_attention_norm")
            self.attention_to_encoder = attention(is_cross=True)
        self.feed_forward_norm = norm("feed_forward_norm")
        self.feed_forward_network = FeedForward(
            self,
            width,
            self.intermediate_dim,
            activation=self.activation,
            is_gated=self.feed_forward == "gated",
            **projections,
        )
        self.built = True

    def call(
        self,
        hidden,
        attention_mask=None,
        rotary=None,
        encoder_hidden=None,
        cross_attention_mask=None,
        cache=None,
        cache_position=None,
        cross_cache=None,
        training=False,
    ):
        """See the class."""
        hidden = backend.boundary(ops.convert_to_tensor(hidden, self.compute_dtype))

        def attend(normal):
            return self.attention_to_itself(
                normal,
                mask=attention_mask,
                is_causal=attention_mask is None,
                rotary=rotary,
                cache=cache,
                cache_position=cache_position,
                training=training,
            )

        def attend_to_encoder(normal):
            others = encoder_hidden
            if others is not None:
                others = ops.convert_to_tensor(others, self.compute_dtype)
            attended, _ = self.attention_to_encoder(
                normal, others, mask=cross_attention_mask, cache=cross_cache, training=training
            )
            return attended

        def add(hidden, branch):
            rate = self.dropout if training else 0.0
            return add_dropout(hidden, branch, rate, self.seed_generator)

        if self.normalize_first:
            attended, extended = attend(self.attention_norm(hidden))
            hidden = add(hidden, attended)
            if self.cross_attention:
                hidden = add(hidden, attend_to_encoder(self.cross_attention_norm(hidden)))
            hidden = add(hidden, self.feed_forward_network(self.feed_forward_norm(hidden)))
        else:
            attended, extended = attend(hidden)
            hidden = self.attention_norm(add(hidden, attended))
            if self.cross_attention:
                hidden = self.cross_attention_norm(add(hidden, attend_to_encoder(hidden)))
            hidden = self.feed_forward_norm(add(hidden, self.feed_forward_network(hidden)))
        hidden = backend.boundary(hidden)
        return hidden if cache is None else (hidden, extended)

    def cross_attention_weights(self, hidden, encoder_hidden, cross_attention_mask=None):
        """Returns how much each position attends to each of the encoder's.

        The result is float32 (batch, heads, length, encoder_length).

        Args:
            hidden, encoder_hidden, cross_attention_mask: see the class.
        """
        if self.normalize_first:
            hidden = hidden + self.attention_to_itself(self.attention_norm(hidden), is_causal=True)[0]
            hidden = self.cross_attention_norm(hidden)
        else:
            hidden = self.attention_norm(hidden + self.attention_to_itself(hidden, is_causal=True)[0])
        return self.attention_to_encoder.weights(hidden, encoder_hidden, cross_attention_mask)

    def cross_keys_and_values(self, encoder_hidden) -> Cache:
        """Returns the keys and values of an encoder's output, for `cross_cache`.

        Args:
            encoder_hidden: (batch, encoder_length, hidden_dim).
        """
        return self.attention_to_encoder.keys_and_values(
            ops.convert_to_tensor(encoder_hidden, self.compute_dtype)
        )

    def compute_output_shape(self, hidden_shape, *other_shapes, **more_shapes):
        """Returns the shape of the input."""
        return hidden_shape

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "activation": self.activation,
            "feed_forward": self.feed_forward,
            "normalize_first": self.normalize_first,
            "normalization": self.normalization,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "use_bias": self.use_bias,
            "cross_attention": self.cross_attention,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "standard_deviation": self.standard_deviation,
            "residual_deviation": self.residual_deviation,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "seed": self.seed,
        }
