"""Dropout whose mask is a hash of (seed, call number, element number): the same on every backend.

The backends' generators give three different masks for one seed, and JAX's threefry costs more on a CPU than
the layer it serves. A mask needs no cryptography: a 32-bit integer finaliser mixes well enough for a Bernoulli
draw, fuses into the surrounding arithmetic under XLA, and makes training curves agree across backends with
dropout switched on.
"""

import keras
from keras import ops

from kerasllm import backend

# Odd multipliers of a 32-bit finaliser of low bias (C. Wellons, "Prospecting for hash functions", 2018).
_MULTIPLIER_1 = 0x7FEB352D
_MULTIPLIER_2 = 0x846CA68B - 2**32
GOLDEN = 0x9E3779B9 - 2**32


def shift_right(value, bits: int):
    """Logical shift of int32, which all backends have; unsigned integers they have not."""
    return ops.bitwise_and(ops.right_shift(value, bits), (1 << (32 - bits)) - 1)


def mix(value):
    """Permutes the 32-bit integers so that every bit of the input changes about half of the output's bits."""
    value = ops.bitwise_xor(value, shift_right(value, 16)) * _MULTIPLIER_1
    value = ops.bitwise_xor(value, shift_right(value, 15)) * _MULTIPLIER_2
    return ops.bitwise_xor(value, shift_right(value, 16))


@backend.recorded_once
def draws(shape: tuple[int, ...], seed):
    """Random int32 of `shape`, uniform in [0, 2**31).

    Args:
        shape: any.
        seed: integer tensor (2,): the seed and the number of the call, as `SeedGenerator.next()` gives it.
    """
    size = 1
    for dimension in shape:
        size *= dimension
    seed = ops.cast(seed, "int32")
    key = mix(mix(seed[0]) + seed[1] * GOLDEN)
    bits = mix(mix(ops.arange(size, dtype="int32") + key) + key)
    return ops.reshape(shift_right(bits, 1), shape)


def dropout(inputs, rate: float, seed_generator: keras.random.SeedGenerator):
    """Zeroes elements of `inputs` with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
        inputs: floating, any shape.
        rate: share of elements zeroed, in [0, 1).
        seed_generator: each call takes its next number, so that no two masks are alike.

    Reference: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """
    if rate == 0:
        return inputs
    return backend.fuse(dropped, ops.convert_to_tensor(inputs), seed_generator.next(), rate=rate)


def dropped(inputs, seed, rate: float):
    """`dropout` with the draws of one seed, see `draws`."""
    return backend.drop(inputs, draws(ops.shape(inputs), seed), int(rate * 2**31), 1 - rate)


def add_dropped(hidden, branch, rate: float, seed_generator: keras.random.SeedGenerator):
    """`hidden + dropout(branch)`."""
    if rate == 0:
        return hidden + branch
    return backend.fuse(_sum, hidden, branch, seed_generator.next(), rate=rate)


def _sum(hidden, branch, seed, rate):
    return hidden + dropped(branch, seed, rate)
