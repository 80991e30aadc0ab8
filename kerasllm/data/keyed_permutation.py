"""Random orders of so many items that no array could hold them."""

from __future__ import annotations

import numpy as np

_ROUNDS = 8


class KeyedPermutation:
    """A random order of the numbers from 0 to `count` - 1, of which any part is computed by itself.

    A Feistel network permutes the numbers of an even number of bits, and is applied again to those that land at `count`
    or beyond, until they land below it.

    Args:
        count: how many numbers, below 2**62.
        random: the generator that the key is drawn from.

    A slice of it is an int64 array.

    Reference: Luby and Rackoff 1988, "How to construct pseudorandom permutations"; Black and Rogaway 2002, "Ciphers
    with arbitrary finite domains" (cycle walking); Steele et al. 2014, "Fast splittable pseudorandom number
    generators" (the mixing function).
    """

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self.count = count
        self._half = np.uint64(max(-(-(count - 1).bit_length() // 2), 1))  # bits
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = random.integers(2**64, size=_ROUNDS, dtype=np.uint64)

    def __len__(self) -> int:
        """Returns the number of items."""
        return self.count

    def __getitem__(self, places: slice) -> np.ndarray:
        """Returns the numbers at these places, int64 (places,)."""
        found = self._permuted(np.arange(*places.indices(self.count), dtype=np.uint64))
        outside = np.flatnonzero(found >= self.count)
        while len(outside):
            found[outside] = self._permuted(found[outside])
            outside = outside[found[outside] >= self.count]
        return found.astype(np.int64)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the images of uint64 numbers of twice `_half` bits."""
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Returns uint64 numbers of which each bit depends on all bits of the given ones."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))
