"""Self-attention as a function of its weights, so that a block can hold raw weights and stay one layer."""

from keras import ops

from kerasllm import backend
from kerasllm.layers.dropout import dropped


def split_heads(projected, num_parts: int, num_heads: int):
    """(batch, length, parts * hidden_dim) → (parts, batch, heads, length, head_dim)."""
    batch, length, width = ops.shape(projected)
    head_dim = width // (num_parts * num_heads)
    parts = ops.reshape(projected, (batch, length, num_parts, num_heads, head_dim))
    return ops.transpose(parts, (2, 0, 3, 1, 4))


def merge_heads(heads):
    """(batch, heads, length, head_dim) → (batch, length, heads * head_dim)."""
    batch, num_heads, length, head_dim = ops.shape(heads)
    return ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), (batch, length, num_heads * head_dim))


def scaled_attention(query, key, value, *, mask=None, is_causal=False, dropout_rate=0.0, seed_generator=None):
    """Attention of heads of queries to heads of keys and values; returns the shape of `query`.

    With no dropout this is the backend's fused kernel. With dropout the probabilities are made, since the
    published models drop them; pass a rate of 0 at inference.

    Args:
        query: (batch, heads, queries, head_dim).
        key, value: (batch, key_value_heads, keys, head_dim); each serves heads / key_value_heads of the queries'.
        mask: boolean, broadcastable to (batch, heads, queries, keys), True where attention is allowed.
        is_causal: a position sees no later one.
        dropout_rate: of the attention probabilities.
        seed_generator: for the dropout.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.1; Ainslie et al. 2023,
    https://arxiv.org/abs/2305.13245.
    """
    if key.shape[1] != query.shape[1]:
        shared = query.shape[1] // key.shape[1]
        key, value = ops.repeat(key, shared, axis=1), ops.repeat(value, shared, axis=1)
    if dropout_rate == 0:
        return backend.attention(query, key, value, mask, is_causal)
    scores, seed = backend.attention_scores(query, key), seed_generator.next()
    probabilities = backend.fuse(_dropped_softmax, scores, mask, seed, is_causal=is_causal, rate=dropout_rate)
    return backend.attend(probabilities, value)


def _dropped_softmax(scores, mask, seed, is_causal: bool, rate: float):
    return ops.cast(dropped(backend.masked_softmax(scores, mask, is_causal), seed, rate), scores.dtype)


def self_attention(
    query_key_value=None,
    *,
    query=None,
    key_value=None,
    num_heads: int,
    mask=None,
    is_causal=False,
    dropout_rate=0.0,
    seed_generator=None,
):
    """Multi-head attention of a sequence to itself.

    Args:
        query_key_value: (batch, length, 3 * hidden_dim), the three projections side by side; or
        query: (batch, queries, hidden_dim) of some positions alone, and
        key_value: (batch, length, 2 * hidden_dim) of all.
        num_heads: hidden_dim must divide by it.
        mask: boolean, broadcastable to (batch, heads, queries, length), True where attention is allowed.
        is_causal: a position sees no later one.
        dropout_rate: of the attention probabilities.
        seed_generator: for the dropout.

    Returns:
        (batch, queries, hidden_dim), before the output projection.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2.
    """
    if query_key_value is not None:
        attended = backend.self_attention(
            query_key_value, num_heads, mask, is_causal, dropout_rate, seed_generator
        )
        if attended is not None:
            return attended
        query, key, value = ops.unstack(split_heads(query_key_value, 3, num_heads), 3)
    else:
        query = split_heads(query, 1, num_heads)[0]
        key, value = ops.unstack(split_heads(key_value, 2, num_heads), 2)
    attended = scaled_attention(
        query,
        key,
        value,
        mask=mask,
        is_causal=is_causal,
        dropout_rate=dropout_rate,
        seed_generator=seed_generator,
    )
    return merge_heads(attended)
