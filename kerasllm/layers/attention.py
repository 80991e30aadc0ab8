"""Multi-head attention: of a sequence to itself, to another sequence, or to cached keys and values; and its masks."""

from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.positions import rotate
from kerasllm.layers.projections import Projection

Cache = tuple[Any, Any]
"""Keys and values, each (batch * key_value_heads, capacity, head_dim)."""


def combined_mask(padding_mask=None, sequence_ids=None, *, is_causal: bool = False):
    """Returns who may attend to whom, boolean and broadcastable to (batch, heads, queries, keys), or None for all.

    Where nothing but the causal rule holds, the result is None, too: attention has an option for that rule alone.

    Args:
        padding_mask: (batch, length), 1 for real tokens, which alone are attended to.
        sequence_ids: int (batch, length); attention stays within tokens of the same number.
        is_causal: whether no position sees a later one.

    Raises:
        ValueError: `padding_mask` has another number of axes.
    """
    if padding_mask is None and sequence_ids is None:
        return None
    if padding_mask is not None and len(padding_mask.shape) != 2:
        raise ValueError(
            f"padding_mask has shape {tuple(padding_mask.shape)}, it must be (batch, length); give who may attend to "
            "whom as attention_mask"
        )
    real = None if padding_mask is None else ops.cast(padding_mask, "bool")[:, None, None, :]
    if sequence_ids is None and not is_causal:
        return real
    places = ops.arange(ops.shape(padding_mask if sequence_ids is None else sequence_ids)[1], dtype="int32")
    queries, keys = places[:, None], places[None, :]
    allowed = (queries >= keys)[None, None] if is_causal else None
    if sequence_ids is not None:
        together = sequence_ids[:, None, :, None] == sequence_ids[:, None, None, :]
        allowed = together if allowed is None else ops.logical_and(allowed, together)
    if real is None:
        return allowed
    # A padding token sees itself: a row without any key would be undefined.
    return ops.logical_and(allowed, ops.logical_or(real, queries == keys))


class Attention:
    """Attention with its projections, as a part of a layer.

    The projections of attention of a sequence to itself are `query_key_value`, the three side by side, and
    `attention_output`; those of attention to another sequence are `cross_attention_query`,
    `cross_attention_key_value` and `cross_attention_output`.

    Args:
        layer: a Keras layer under construction; it has a `seed`, and a `seed_generator` for the dropout.
        width: hidden_dim of what comes in and goes out; it divides by `num_heads`.
        num_heads: heads of queries.
        num_key_value_heads: heads of keys and values, each of which serves several heads of queries.
        dropout: of the attention probabilities, in training.
        is_cross: whether attention is to another sequence.
        into, back: settings of the projections to the heads and back, see `Projection`.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2; Ainslie et al. 2023,
    https://arxiv.org/abs/2305.13245.
    """

    def __init__(
        self,
        layer: Any,
        width: int,
        *,
        num_heads: int,
        num_key_value_heads: int,
        dropout: float,
        is_cross: bool = False,
        into: dict[str, Any],
        back: dict[str, Any],
    ) -> None:
        if width % num_heads:
            raise ValueError(f"hidden_dim {width} does not divide by num_heads {num_heads}")
        if num_heads % num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {num_key_value_heads} does not divide num_heads {num_heads}"
            )
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads
        self.dropout, self.is_cross, self.seed_generator = dropout, is_cross, layer.seed_generator
        self.widths = (width, 2 * (width // num_heads * num_key_value_heads))
        if is_cross:
            self.query = Projection(layer, "cross_attention_query", width, self.widths[0], **into)
            self.key_value = Projection(layer, "cross_attention_key_value", width, self.widths[1], **into)
        else:
            self.query_key_value = Projection(layer, "query_key_value", width, sum(self.widths), **into)
        name = "cross_attention_output" if is_cross else "attention_output"
        self.output = Projection(layer, name, width, width, **back)

    def __call__(
        self,
        hidden,
        others=None,
        *,
        mask=None,
        is_causal: bool = False,
        rotary=None,
        cache: Cache | None = None,
        cache_position=None,
        training: bool = False,
    ):
        """Returns the attention of `hidden` to `others`, (batch, queries, width), and the cache.

        Args:
            hidden: (batch, queries, width).
            others: (batch, keys, width), to which `hidden` attends; itself where left out.
            mask: boolean, broadcastable to (batch, heads, queries, keys), True where attention is allowed.
            is_causal: whether a position sees no later one.
            rotary: tables of `rotary_tables`, by which queries and keys are turned.
            cache: of attention to itself, to which the keys and values of `hidden` are written. A single query
                attends to the whole cache; several are the beginning of the sequences and attend to one another. In
                cross-attention it is the whole of what is attended to, see `keys_and_values`. For a single query the
                mask is the same for all heads.
            cache_position: column of the cache from which `hidden` is written; int (batch,) for one column a row.
            training: whether probabilities are dropped.
        """
        if self.is_cross:
            query = split_heads(self.query(hidden), (self.num_heads,))[0]
            if cache is None:
                key, value = self._key_value_heads(others)
            else:
                key, value = (self._with_heads(some, query.dtype) for some in cache)
        else:
            query, key, value = self._heads(hidden, others)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        if cache is not None and not self.is_cross:
            if len(getattr(cache_position, "shape", ())):  # the heads of a row have its column
                cache_position = ops.repeat(cache_position, self.num_key_value_heads)
            cache = tuple(
                backend.write_slice(written, _without_heads(new), cache_position)
                for written, new in zip(cache, (key, value), strict=True)
            )
        if cache is not None and query.shape[2] == 1:
            return self.output(_attend_to_cache(query, mask, *cache)), cache
        rate = self.dropout if training else 0.0
        attended = attend(
            query,
            key,
            value,
            mask=mask,
            is_causal=is_causal,
            dropout_rate=rate,
            seed_generator=self.seed_generator,
        )
        return self.output(merge_heads(attended)), cache

    def weights(self, hidden, others, mask=None):
        """Returns how much `hidden` attends to each of `others`, float32 (batch, heads, queries, keys), sums of 1.

        For pictures; of attention to another sequence.

        Args:
            hidden, others, mask: see `__call__`.
        """
        query = split_heads(self.query(hidden), (self.num_heads,))[0]
        key, _ = self._key_value_heads(others)
        key = ops.repeat(key, self.num_heads // self.num_key_value_heads, axis=1)
        scores = ops.matmul(ops.cast(query, "float32"), ops.transpose(ops.cast(key, "float32"), (0, 1, 3, 2)))
        scores = scores / query.shape[-1] ** 0.5
        scores = scores if mask is None else ops.where(mask, scores, -1e30)
        shares = ops.exp(
            scores - ops.max(scores, axis=-1, keepdims=True)
        )  # Keras' softmax warns of one place
        return shares / ops.sum(shares, axis=-1, keepdims=True)

    def keys_and_values(self, others) -> Cache:
        """Returns the keys and values of `others` (batch, keys, width), as a cache of cross-attention."""
        key, value = self._key_value_heads(others)
        return _without_heads(key), _without_heads(value)

    def _heads(self, hidden, others):
        counts = (self.num_heads, self.num_key_value_heads, self.num_key_value_heads)
        if others is None or others is hidden:
            return split_heads(self.query_key_value(hidden), counts)
        query, key_value = self.query_key_value.parts((hidden, others), self.widths)
        return *split_heads(query, counts[:1]), *split_heads(key_value, counts[1:])

    def _key_value_heads(self, others):
        return split_heads(self.key_value(others), (self.num_key_value_heads,) * 2)

    def _with_heads(self, cached, dtype):
        """Returns (batch, key_value_heads, keys, head_dim), of (batch * key_value_heads, keys, head_dim)."""
        _, keys, head_dim = ops.shape(cached)
        return ops.cast(ops.reshape(cached, (-1, self.num_key_value_heads, keys, head_dim)), dtype)


def split_heads(projected, counts: tuple[int, ...]):
    """Returns (batch, heads, length, head_dim) for each of `counts` heads that lie side by side.

    Args:
        projected: (batch, length, sum(counts) * head_dim).
        counts: numbers of heads.
    """
    batch, length, width = ops.shape(projected)
    heads = ops.reshape(projected, (batch, length, sum(counts), width // sum(counts)))
    return backend.split(ops.transpose(heads, (0, 2, 1, 3)), counts, axis=1)


def merge_heads(heads):
    """Returns (batch, length, heads * head_dim), of (batch, heads, length, head_dim)."""
    batch, num_heads, length, head_dim = ops.shape(heads)
    return ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), (batch, length, num_heads * head_dim))


def attend(
    query,
    key,
    value,
    *,
    mask=None,
    is_causal: bool = False,
    dropout_rate: float = 0.0,
    seed_generator: keras.random.SeedGenerator | None = None,
):
    """Returns the attention of heads of queries to heads of keys and values, of the shape of `query`.

    Args:
        query: (batch, heads, queries, head_dim).
        key, value: (batch, key_value_heads, keys, head_dim); each serves heads / key_value_heads of the queries'.
        mask, is_causal, dropout_rate: see `backend.attention`.
        seed_generator: of the dropout; it is not asked where the rate is 0.
    """
    if key.shape[1] != query.shape[1]:
        shared = query.shape[1] // key.shape[1]
        key, value = ops.repeat(key, shared, axis=1), ops.repeat(value, shared, axis=1)
    seed = seed_generator.next() if dropout_rate and seed_generator is not None else None
    return backend.attention(
        query, key, value, mask=mask, is_causal=is_causal, dropout_rate=dropout_rate, seed=seed
    )


def _without_heads(heads):
    """Returns (batch * heads, length, head_dim), of (batch, heads, length, head_dim)."""
    _, _, length, head_dim = ops.shape(heads)
    return ops.reshape(heads, (-1, length, head_dim))


def _attend_to_cache(query, mask, keys, values):
    """Returns (batch, 1, hidden_dim) for one query a row, (batch, heads, 1, head_dim).

    The heads that share a key are its queries, so nothing is repeated. Rows and heads stay one axis: with a
    batch of one, XLA drops an axis of its own in the products, and then copies the cache three times a step.
    """
    batch, heads, _, head_dim = query.shape
    rows = keys.shape[0]
    if mask is not None:  # (batch, 1, 1, capacity) → (batch * key_value_heads, 1, capacity)
        mask = ops.repeat(mask[:, 0], rows // mask.shape[0], axis=0)
    grouped = ops.reshape(ops.cast(query, keys.dtype), (rows, batch * heads // rows, head_dim))
    attended = ops.cast(backend.attention(grouped, keys, values, mask=mask), query.dtype)
    return ops.reshape(attended, (batch, 1, heads * head_dim))
