"""Positions of a sequence: some of them taken out, and rotary ones.

Rotary positions turn pairs of a head's coordinates by an angle that grows with the position. The angles are float32
whatever the precision: in bfloat16 positions 300 and 301 would be the same.
"""

import math

from keras import ops

from kerasllm import backend


def gather_positions(hidden, positions):
    """Returns (batch, slots, width), of (batch, length, width) at positions int (batch, slots).

    At a position that is not there it is NaN on every backend: a gather alone would wrap it, clamp it or fail.
    """
    positions = ops.cast(positions, "int32")
    is_there = ops.logical_and(positions >= 0, positions < ops.shape(hidden)[1])
    taken = backend.take_positions(hidden, ops.where(is_there, positions, 0))
    return ops.where(is_there[:, :, None], taken, ops.cast(math.nan, taken.dtype))


def rotary_tables(positions, head_dim: int, base: float):
    """Returns cosines and sines, float32 (..., length, head_dim / 2), for int `positions` (..., length).

    Args:
        positions: of the tokens.
        head_dim: width of a head, even.
        base: the longest wave is 2 pi * base positions long.

    Reference: Su et al. 2021, https://arxiv.org/abs/2104.09864, section 3.2.2.
    """
    exponents = ops.arange(0, head_dim, 2, dtype="float32") / head_dim
    frequencies = ops.exp(-exponents * ops.log(ops.cast(base, "float32")))  # (head_dim / 2,)
    angles = ops.cast(positions, "float32")[..., None] * frequencies
    return ops.cos(angles), ops.sin(angles)


def rotate(heads, tables):
    """Returns turned heads (batch, heads, length, head_dim); coordinate i is paired with i + head_dim / 2, as in Llama.

    Args:
        heads: queries or keys.
        tables: those of `rotary_tables`, (batch or 1, length, head_dim / 2) each.
    """
    cosine, sine = (table[:, None] for table in tables)  # the same for all heads
    return backend.rotate(heads, cosine, sine)
