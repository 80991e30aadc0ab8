"""Rotary positions: pairs of a head's coordinates are turned by an angle that grows with the position.

The angles are float32 whatever the precision: in bfloat16 position 300 and 301 would be the same.
"""

from typing import Any

from keras import ops

from kerasllm import backend


class RotaryTables:
    """Cosines and sines, float32 (batch or 1, length, head_dim / 2) each, in `tables`.

    An object, not a tuple: a tuple's tensors Keras casts to the type that a layer computes in.
    """

    def __init__(self, cosine: Any, sine: Any) -> None:
        self.tables = (cosine, sine)


def rotary_tables(positions, head_dim: int, base: float) -> RotaryTables:
    """The tables of int `positions` (batch or 1, length).

    Args:
        positions: of the tokens.
        head_dim: width of a head, even.
        base: the longest wave is 2 pi * base positions long.

    Reference: Su et al. 2021, https://arxiv.org/abs/2104.09864, section 3.2.2.
    """
    exponents = ops.arange(0, head_dim, 2, dtype="float32") / head_dim
    frequencies = ops.exp(-exponents * ops.log(ops.cast(base, "float32")))  # (head_dim / 2,)
    angles = ops.cast(positions, "float32")[..., None] * frequencies
    return RotaryTables(ops.cos(angles), ops.sin(angles))


def rotate(heads, rotary: RotaryTables):
    """Turns (batch, heads, length, head_dim); coordinate i is paired with i + head_dim / 2, as in Llama.

    Args:
        heads: queries or keys.
        rotary: of `rotary_tables`.
    """
    return backend.fuse(_rotate, heads, *(table[:, None] for table in rotary.tables))  # over the heads


def _rotate(heads, cosine, sine):
    wide = ops.cast(heads, "float32")
    half = wide.shape[-1] // 2
    first, second = wide[..., :half], wide[..., half:]
    turned = ops.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return ops.cast(turned, heads.dtype)
