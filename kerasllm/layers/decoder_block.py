"""The decoder block as one layer with raw weights, pre-normalised: GPT-2's, and by its options Llama's."""

from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import merge_heads, scaled_attention
from kerasllm.layers.dropout import add_dropped
from kerasllm.layers.feed_forward import activate
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.positions import rotate
from kerasllm.layers.projections import add_and_normalize, add_norm, add_projection, normalize, project


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerDecoderBlock(keras.layers.Layer):
    """`x = x + attention(norm(x))`, then `x = x + feed_forward(norm(x))`; no position sees a later one.

    Args:
        num_heads: the width of the input must divide by it.
        intermediate_dim: width inside the feed-forward network.
        num_key_value_heads: heads of keys and values, each shared by several queries' heads; `num_heads` where
            left out.
        activation: name of a Keras activation; "gelu_tanh" is GPT-2's.
        feed_forward: "dense", or "gated": `down(activation(gate(x)) * up(x))`.
        normalization: "layer_norm" or "rms_norm".
        layer_norm_epsilon: added to the variance, or the mean square.
        use_bias: whether projections and norms have biases.
        dropout: of both residual branches.
        attention_dropout: of the attention probabilities.
        standard_deviation: of the initial values.
        residual_deviation: of those of the two projections into the residual stream; the same where left out.
        lora_rank: above 0, all but low-rank adapters beside the projections is frozen.
        lora_alpha: the adapters count alpha / rank; twice the rank where left out.
        seed: of the initial values and the dropout.

    Call with `hidden` (batch, length, hidden_dim) and, optionally, `attention_mask`, boolean, broadcastable to
    (batch, heads, queries, keys), which then decides alone who attends to whom; and `rotary`, the tables of
    `kerasllm.layers.positions`. Returns the shape of `hidden`.

    With a `cache` (keys and values, each (batch * key_value_heads, capacity, head_dim)) and an int scalar
    `cache_position`, the keys and values of this call go to the cache from that column on, and (hidden, cache)
    comes back. A single query attends to the whole cache, as the mask allows, which must then be broadcastable to
    (batch, 1, capacity); several are taken for the beginning of the sequences and attend to one another.

    Reference: Radford et al. 2019; Touvron et al. 2023, https://arxiv.org/abs/2302.13971.
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
        normalization: str = "layer_norm",
        layer_norm_epsilon: float = 1e-5,
        use_bias: bool = True,
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
        self.normalization = normalization
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_bias = use_bias
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

    def build(self, hidden_shape, *other_shapes, **more_shapes):
        """Creates the weights for an input of width `hidden_shape[-1]`."""
        if self.built:
            return
        width = hidden_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"hidden_dim {width} does not divide by num_heads {self.num_heads}")
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide num_heads {self.num_heads}"
            )
        key_value_width = width // self.num_heads * self.num_key_value_heads
        parts = 2 if self.feed_forward == "gated" else 1
        common: dict[str, Any] = {"bias": self.use_bias, "lora_rank": self.lora_rank}
        into = {"deviation": self.standard_deviation, **common}
        back = {"deviation": self.residual_deviation, **common}
        norm = {"bias": self.use_bias and self.normalization == "layer_norm", "trainable": not self.lora_rank}
        add_norm(self, "attention_norm", width, **norm)
        add_projection(self, "query_key_value", width, width + 2 * key_value_width, **into)
        add_projection(self, "attention_output", width, width, **back)
        add_norm(self, "feed_forward_norm", width, **norm)
        add_projection(self, "intermediate", width, parts * self.intermediate_dim, **into)
        add_projection(self, "output", self.intermediate_dim, width, **back)
        self.built = True

    def call(self, hidden, attention_mask=None, rotary=None, training=False, cache=None, cache_position=None):
        """See the class."""
        hidden = backend.boundary(ops.convert_to_tensor(hidden, self.compute_dtype))
        rate = self.dropout if training else 0.0
        norm: dict[str, Any] = {"kind": self.normalization, "epsilon": self.layer_norm_epsilon}
        normal = normalize(self, "attention_norm", hidden, **norm)
        attended, cache = self._attend(normal, attention_mask, rotary, training, cache, cache_position)
        attended = project(self, "attention_output", attended)
        hidden, normal = add_and_normalize(self, "feed_forward_norm", hidden, attended, rate, **norm)

        wide = project(self, "intermediate", normal)
        if self.feed_forward == "gated":
            gate, up = ops.split(wide, 2, axis=-1)
            wide = activate(self.activation, gate) * up
        else:
            wide = activate(self.activation, wide)  # (batch, length, intermediate_dim)
        hidden = add_dropped(hidden, project(self, "output", wide), rate, self.seed_generator)
        hidden = backend.boundary(hidden)
        return hidden if cache is None else (hidden, cache)

    def _attend(self, normal, mask, rotary, training, cache, cache_position):
        """Attention before its output projection, (batch, length, hidden_dim), and the cache with these keys."""
        projected = project(self, "query_key_value", normal)
        rate = self.attention_dropout if training else 0.0
        if self.num_key_value_heads == self.num_heads and rotary is None and cache is None:
            attended = backend.self_attention(
                projected, self.num_heads, mask, mask is None, rate, self.seed_generator
            )
            if attended is not None:
                return attended, None
        query, key, value = self._heads(projected)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        if cache is not None:
            cache = tuple(
                backend.write_slice(
                    written, ops.reshape(new, (-1, new.shape[2], new.shape[3])), cache_position
                )
                for written, new in zip(cache, (key, value), strict=True)
            )
            if query.shape[2] == 1:
                return self._attend_to_cache(query, mask, *cache), cache
        attended = scaled_attention(
            query,
            key,
            value,
            mask=mask,
            is_causal=mask is None,
            dropout_rate=rate,
            seed_generator=self.seed_generator,
        )
        return merge_heads(attended), cache

    @staticmethod
    def _attend_to_cache(query, mask, keys, values):
        """One query a row, (batch, heads, 1, head_dim) → (batch, 1, hidden_dim).

        The heads that share a key are its queries, so nothing is repeated. Rows and heads stay one axis: with a
        batch of one, XLA drops an axis of its own in the products, and then copies the cache three times a step.
        """
        batch, heads, _, head_dim = query.shape
        rows = keys.shape[0]
        if mask is not None:  # (batch, 1, capacity) → (batch * key_value_heads, 1, capacity)
            mask = ops.repeat(mask, rows // batch, axis=0)
        grouped = ops.reshape(ops.cast(query, keys.dtype), (rows, batch * heads // rows, head_dim))
        attended = ops.cast(backend.attention(grouped, keys, values, mask), query.dtype)
        return ops.reshape(attended, (batch, 1, heads * head_dim))

    def _heads(self, projected):
        """(batch, length, (heads + 2 * key_value_heads) * head_dim) → three of (batch, heads, length, head_dim)."""
        batch, length, width = ops.shape(projected)
        counts = (self.num_heads, self.num_key_value_heads, self.num_key_value_heads)
        head_dim = width // sum(counts)
        heads = ops.reshape(projected, (batch, length, sum(counts), head_dim))
        heads = ops.transpose(heads, (0, 2, 1, 3))
        return backend.split(heads, counts, axis=1)

    def compute_output_shape(self, hidden_shape, *other_shapes, **more_shapes):
        """The shape of the input."""
        return hidden_shape

    def get_config(self):
        """The arguments of the constructor."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "activation": self.activation,
            "feed_forward": self.feed_forward,
            "normalization": self.normalization,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "standard_deviation": self.standard_deviation,
            "residual_deviation": self.residual_deviation,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "seed": self.seed,
        }


def causal_mask(length: int, padding_mask=None, segment_ids=None):
    """Who may attend to whom, boolean (batch, 1, length, length), where the causal rule alone does not say; or None.

    Args:
        length: of the sequences.
        padding_mask: (batch, length), 1 for real tokens.
        segment_ids: int (batch, length); attention stays within tokens of the same number.
    """
    if padding_mask is None and segment_ids is None:
        return None
    places = ops.arange(length)
    earlier = places[:, None] >= places[None, :]
    allowed = earlier[None]
    if segment_ids is not None:
        allowed = ops.logical_and(allowed, segment_ids[:, :, None] == segment_ids[:, None, :])
    if padding_mask is not None:
        # A padding token sees itself: a row without any key would be undefined.
        itself = places[:, None] == places[None, :]
        real = ops.logical_or(ops.cast(padding_mask, "bool")[:, None, :], itself[None])
        allowed = ops.logical_and(allowed, real)
    return allowed[:, None]
