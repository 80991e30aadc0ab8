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
        if self.normalize:
            *others, weights = batch
            batch = (*others, keras.tree.map_structure(_normalized, weights))
        rows = len(keras.tree.flatten(batch)[0])
        missing = -rows % self.multiple
        if missing:
            *others, weights = batch
            others = keras.tree.map_structure(lambda array: _lengthened(array, missing), others)
            batch = (*others, keras.tree.map_structure(lambda array: _lengthened(array, missing, 0), weights))
        own = (rows + missing) // self.parts
        place = slice(self.part * own, (self.part + 1) * own)
        return keras.tree.map_structure(lambda array: array[place], tuple(batch))


def _normalized(weights: np.ndarray) -> np.ndarray:
    return (weights / max(weights.sum(dtype=np.float64), 1e-7)).astype(np.float32)


def _lengthened(array: np.ndarray, rows: int, factor: int = 1) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[:1] * factor, rows, axis=0)])
