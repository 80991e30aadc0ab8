"""Positions taken out of sequences."""

from keras import ops


def take_columns(hidden, columns):
    """(batch, length, width) at columns int (batch, slots) → (batch, slots, width)."""
    return ops.take_along_axis(hidden, ops.cast(columns, "int32")[:, :, None], axis=1)
