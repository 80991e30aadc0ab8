"""Rotary positions: pairs of a head's coordinates are turned by an angle that grows with the position.

The angles are float32 whatever the precision: in bfloat16 position 300 and 301 would be the same.
"""

from keras import ops

from kerasllm import backend


def rotary_tables(positions, head_dim: int, base: float):
    """Cosines and sines, float32 (..., length, head_dim / 2), of int `positions` (..., length).

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
    """Turns (batch, heads, length, head_dim); coordinate i is paired with i + head_dim / 2, as in Llama.

    Args:
        heads: queries or keys.
        tables: of `rotary_tables`, (batch or 1, length, head_dim / 2) each.
    """
    return backend.fuse(_rotate, heads, *(table[:, None] for table in tables))  # over the heads


def _rotate(heads, cosine, sine):
    wide = ops.cast(heads, "float32")
    half = wide.shape[-1] // 2
    first, second = wide[..., :half], wide[..., half:]
    turned = ops.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return ops.cast(turned, heads.dtype)
