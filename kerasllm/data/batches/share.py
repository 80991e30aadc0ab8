"""The rows of a batch that one of several processes delivers."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np


class Share(NamedTuple):
    """Which of a batch's rows a process delivers.

    Args:
        part: the number of its part, from 0.
        parts: number of parts.
        multiple: what the number of rows must be a multiple of. Missing rows are made from the first, with weight 0.
        normalize: whether the weights are divided by their sum over the whole batch.
    """

    part: int = 0
    parts: int = 1
    multiple: int = 1
    normalize: bool = False

    def of(self, batch: Any) -> Any:
        """Returns the rows of this share of a batch (inputs, labels, weights), each an array of rows."""
        batch = self.normalized(batch)
        rows = len(keras.tree.flatten(batch)[0])
        missing = -rows % self.multiple
        if missing:
            *others, weights = batch
            others = keras.tree.map_structure(lambda array: _lengthened(array, missing), others)
            batch = (*others, keras.tree.map_structure(lambda array: _lengthened(array, missing, 0), weights))
        place = self.rows(rows + missing)
        return keras.tree.map_structure(lambda array: array[place], tuple(batch))

    def rows(self, count: int) -> slice:
        """Returns the places of this share among `count` rows."""
        own = count // self.parts
        return slice(self.part * own, (self.part + 1) * own)

    def normalized(self, batch: Any, parts: int = 1) -> Any:
        """Returns a batch with normalized weights, if they are to be so.

        Args:
            batch: (inputs, labels, weights).
            parts: the number of parts with the same sum of weights that the whole batch has.
        """
        if not self.normalize:
            return batch
        *others, weights = batch
        return (*others, keras.tree.map_structure(lambda array: _normalized(array, parts), weights))


def _normalized(weights: np.ndarray, parts: int) -> np.ndarray:
    return (weights / max(weights.sum(dtype=np.float64) * parts, 1e-7)).astype(np.float32)


def _lengthened(array: np.ndarray, rows: int, factor: int = 1) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[:1] * factor, rows, axis=0)])
