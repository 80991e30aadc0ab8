"""Pooling: the vectors of a text's tokens become one, of unit length if asked."""

from keras import ops

from kerasllm.layers.positions import gather_positions


def pool_tokens(hidden, kind: str, *, padding_mask=None, sequence_ids=None, first_positions=None):
    """Returns the pooled vectors of texts, float32 or float64 for "mean", otherwise of the type of `hidden`.

    Args:
        hidden: (batch, length, width).
        kind: "mean" or "max" over the real tokens, or "cls" for the first token.
        padding_mask: (batch, length), 1 for real tokens; None if all are.
        sequence_ids: int (batch, length), the numbers of the packed texts, from 0 in each row, -1 for padding.
        first_positions: int (batch, slots), the positions of the first tokens of packed texts.

    Returns:
        (batch, width), or (batch, slots, width) for packed texts; zeros in slots without a text, except for "cls".
    """
    if kind == "cls":
        return hidden[:, 0] if first_positions is None else gather_positions(hidden, first_positions)
    if first_positions is not None and sequence_ids is not None:
        numbers = ops.arange(ops.shape(first_positions)[1], dtype=sequence_ids.dtype)
        mask = sequence_ids[:, None, :] == numbers[None, :, None]  # (batch, slots, length)
    else:
        mask = None if padding_mask is None else ops.cast(padding_mask, "bool")[:, None, :]
    if kind == "max":
        pooled = _greatest(hidden, mask)
    elif mask is None:
        pooled = ops.mean(ops.cast(hidden, "float32"), axis=1, keepdims=True)
    else:
        weights = ops.cast(mask, "float32")
        weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)
        pooled = ops.matmul(weights, ops.cast(hidden, "float32"))  # (batch, slots or 1, width)
    return pooled[:, 0] if first_positions is None else pooled


def unit_length(vectors):
    """Returns vectors (..., width) divided by their lengths; a zero vector stays, and its gradient is finite."""
    squares = ops.sum(ops.square(ops.cast(vectors, "float32")), axis=-1, keepdims=True)
    return vectors * ops.cast(ops.rsqrt(ops.maximum(squares, 1e-24)), vectors.dtype)


def _greatest(hidden, mask):
    """Returns the greatest value of each coordinate, (batch, slots or 1, width), for a mask (batch, slots, length)."""
    if mask is None:
        return ops.max(hidden, axis=1, keepdims=True)
    least = ops.cast(-1e30, hidden.dtype)
    pooled = ops.max(ops.where(mask[..., None], hidden[:, None], least), axis=2)
    return ops.where(ops.any(mask, axis=-1, keepdims=True), pooled, ops.zeros_like(pooled))
