"""Random numbers that are a hash of (seed, call number, element number): the same on every backend.

The backends' generators give three different masks of dropout for one seed, and JAX's threefry costs more on a CPU
than the layer that it serves. A mask needs no cryptography: a 32-bit integer finalizer mixes well enough for a
Bernoulli draw, fuses into the surrounding arithmetic under XLA, and makes training curves agree across backends with
dropout switched on.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from keras import ops

# Odd multipliers of a 32-bit finalizer of low bias (C. Wellons, "Prospecting for hash functions", 2018).
_MULTIPLIER_1 = 0x7FEB352D
_MULTIPLIER_2 = 0x846CA68B - 2**32
GOLDEN = 0x9E3779B9 - 2**32
"""The golden ratio's 32 bits: multiples of it, added to a seed, are far apart."""


def shift_right(value, bits: int):
    """Returns the logical shift of int32 numbers; not all backends have shifts of unsigned integers."""
    return ops.bitwise_and(ops.right_shift(value, bits), (1 << (32 - bits)) - 1)


def mix(value):
    """Permutes the 32-bit integers so that every bit of the input changes about half of the output's bits."""
    value = ops.bitwise_xor(value, shift_right(value, 16)) * _MULTIPLIER_1
    value = ops.bitwise_xor(value, shift_right(value, 15)) * _MULTIPLIER_2
    return ops.bitwise_xor(value, shift_right(value, 16))


_part = 0


def number_rows_from(part: int) -> None:
    """Lets `draws` number the elements as those of part number `part` of a tensor that is divided by its first axis.

    So a process that has some rows of a batch draws for them what it would draw if it had all.
    """
    global _part
    _part = part


@contextmanager
def undivided() -> Iterator[None]:
    """Within, `draws` are for tensors that each process has whole, such as weights."""
    global _part
    before, _part = _part, 0
    try:
        yield
    finally:
        _part = before


def draws(shape: tuple[int, ...], seed):
    """Returns random int32 numbers of `shape`, uniform in [0, 2**31).

    Elements are numbered across all processes. Those from number 2**31 on have a high word, which changes their key,
    so that no two elements of a large batch share a draw.

    Args:
        shape: the lengths of the axes.
        seed: integer tensor (2,), the seed and the number of the call, as `SeedGenerator.next()` gives it.
    """
    size = 1
    for dimension in shape:
        size *= dimension
    seed = ops.cast(seed, "int32")
    key = mix(mix(seed[0]) + seed[1] * GOLDEN)
    if isinstance(size, int) and (_part + 1) * size > _NUMBERS:
        return ops.reshape(shift_right(_mix_wide(shape, key, _part * size), 1), shape)
    first = key + _part * size if _part else key
    bits = mix(mix(ops.arange(size, dtype="int32") + first) + key)
    return ops.reshape(shift_right(bits, 1), shape)


_NUMBERS = 2**31  # of elements that the low word tells apart


def _mix_wide(shape: tuple[int, ...], key, first: int):
    """Returns the bits of elements that are numbered from `first`, some of them beyond 2**31, flat.

    They are numbered by rows, each of which holds as many of the trailing axes as have at most 2**30 elements.
    """
    axis = next(axis for axis in range(1, len(shape) + 1) if math.prod(shape[axis:]) <= _NUMBERS // 2)
    width = math.prod(shape[axis:])
    return _mix_rows(key, first + np.arange(math.prod(shape[:axis]), dtype=np.int64) * width, width)


def _mix_rows(key, starts: np.ndarray, width: int):
    """Returns the bits of rows of `width` elements that are numbered from `starts`; a high word makes another key."""
    starts = starts[:, None]
    low = ops.convert_to_tensor((starts % 2**31).astype("int32")) + ops.arange(width, dtype="int32")
    high = ops.convert_to_tensor((starts // 2**31).astype("int32")) + shift_right(low, 31)
    low = ops.bitwise_and(low, 2**31 - 1)
    keys = ops.where(high == 0, key, mix(key + high * GOLDEN))
    return mix(mix(low + keys) + keys)


def least_kept(rate: float) -> int:
    """Returns the least of the `draws` whose element dropout of this rate keeps."""
    return int(rate * 2**31)
