"""Random numbers that are a hash of (seed, call number, element number): the same on every backend.

The backends' generators give three different masks of dropout for one seed, and JAX's threefry costs more on a CPU
than the layer that it serves. A mask needs no cryptography: a 32-bit integer finalizer mixes well enough for a
Bernoulli draw, fuses into the surrounding arithmetic under XLA, and makes training curves agree across backends with
dropout switched on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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

    Args:
        shape: the lengths of the axes.
        seed: integer tensor (2,), the seed and the number of the call, as `SeedGenerator.next()` gives it.
    """
    size = 1
    for dimension in shape:
        size *= dimension
    seed = ops.cast(seed, "int32")
    key = mix(mix(seed[0]) + seed[1] * GOLDEN)
    first = key + _wrapped(_part * size) if _part else key
    bits = mix(mix(ops.arange(size, dtype="int32") + first) + key)
    return ops.reshape(shift_right(bits, 1), shape)


def _wrapped(number: int) -> int:
    """Returns the number as an int32 that overflows."""
    return (number + 2**31) % 2**32 - 2**31


def least_kept(rate: float) -> int:
    """Returns the least of the `draws` whose element dropout of this rate keeps."""
    return int(rate * 2**31)
