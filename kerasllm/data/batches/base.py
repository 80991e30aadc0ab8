"""Optimizer steps handed out in micro-batches: what all batches for training share."""

from __future__ import annotations

import abc
from typing import Any

import keras


class MicroBatches(keras.utils.PyDataset, abc.ABC):
    """Whole steps, cut into `gradient_accumulation` micro-batches of `rows_per_batch` rows.

    A subclass sets these, and `steps` and `start_step`, the first step that is handed out. An item is a nested
    structure of arrays, whose first axis is the rows.
    """

    gradient_accumulation: int
    rows_per_batch: int
    start_step: int
    steps: int

    def __len__(self) -> int:
        """The micro-batches left from `start_step` on."""
        return (self.steps - self.start_step) * self.gradient_accumulation

    def __getitem__(self, index: int) -> Any:
        """Micro-batch `index`, counted from `start_step`."""
        if not 0 <= index < len(self):
            raise IndexError(f"micro-batch {index} of {len(self)}")
        step, part = divmod(index, self.gradient_accumulation)
        rows = slice(part * self.rows_per_batch, (part + 1) * self.rows_per_batch)
        return keras.tree.map_structure(lambda array: array[rows], self.whole(self.start_step + step, index))

    @abc.abstractmethod
    def whole(self, step: int, index: int) -> Any:
        """All micro-batches of a step, of which that of `index` is asked for."""
