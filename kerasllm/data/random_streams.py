"""Random numbers that depend on a seed, a purpose and a number, and on nothing drawn before."""

import numpy as np

from kerasllm.errors import InputError

# Purposes of random numbers: each has its own streams, so that none repeats the draws of another.
PLANNING = 1
MASKING = 2
WINDOWS = 3
SPLITTING = 4
SHUFFLING = 17


def random_stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Makes an independent stream of random numbers for each (seed, purpose, index).

    A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") needs no
    state to be saved: the key alone says which numbers come.

    Args:
        seed: 0 to 2**64 - 1.
        purpose: one of the constants above, below 256.
        index: number of the epoch or of the step, below 2**56.

    Raises:
        InputError: the seed is negative or too large.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}, it must lie in [0, 2**64)")
    key = np.array([seed, (purpose << 56) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
