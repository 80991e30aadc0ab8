"""Random numbers that depend only on a seed, a purpose and an index, not on earlier draws."""

from numbers import Integral

import numpy as np

from kerasllm.errors import InputError

# The purposes of random numbers, each of which has its own streams.
PLANNING = 1
MASKING = 2
WINDOWS = 3
SPLITTING = 4
CLOZE = 5
SHUFFLING = 17


def random_stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Returns a generator that is independent for each (seed, purpose, index).

    A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") needs no
    state to be saved, as the key determines all numbers.

    Args:
        seed: the seed, 0 to 2**64 - 1.
        purpose: one of the constants above, below 256.
        index: the number of the epoch or the step, below 2**56.

    Raises:
        InputError: the seed is negative or too large.
    """
    if not isinstance(seed, Integral) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed!r}, it must be a whole number in [0, 2**64)")
    key = np.array([seed, (purpose << 56) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
