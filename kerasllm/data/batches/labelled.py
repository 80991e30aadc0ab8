"""The base class of batches of labeled texts, padded or packed."""

from __future__ import annotations

import abc

import keras
import numpy as np

from kerasllm.data.batches.base import MicroBatches, PerEpoch, check_positive
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.errors import InputError

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]

GRANULE = 16
"""Row lengths are multiples of this, which suits matrix units."""


class LabelledBatches(MicroBatches):
    """Batches of texts, each with a class or a number; an epoch has every text exactly once.

    All micro-batches have the same number of rows: the last one of an epoch is filled up with rows of weight 0.

    Args:
        encoded: the texts.
        labels: integers or floats (texts,), or (texts, classes) for several labels a text; None for prediction,
            which gives labels of 0.
        batch_size: number of texts in a micro-batch.
        seed: seed of the order.
        epochs: number of passes over all texts.
        gradient_accumulation: number of micro-batches in a step.
        start_step: the first step to return, counted from 0, for a resumed run.
        normalize_weights: as for `MicroBatches`.

    Raises:
        InputError: a setting is out of range, or there are no texts.
    """

    shapes: int  # number of different shapes of the batches

    def __init__(
        self,
        encoded: EncodedTexts,
        labels: np.ndarray | None,
        *,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        gradient_accumulation: int = 1,
        start_step: int = 0,
        normalize_weights: bool | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            normalize_weights=normalize_weights,
        )
        check_positive(epochs=epochs)
        if len(encoded) == 0:
            raise InputError("there are no texts to make batches of")
        if labels is None:
            labels = np.zeros(len(encoded), np.int32)
        if labels.shape[:1] != (len(encoded),):
            raise ValueError(f"labels of shape {labels.shape} for {len(encoded)} texts")
        self.encoded, self.lengths = encoded, encoded.lengths
        self.labels = labels.astype(np.int32 if np.issubdtype(labels.dtype, np.integer) else np.float32)
        self.seed, self.epochs = seed, epochs
        self.steps_per_epoch = -(-len(encoded) // self.examples_per_step)
        self.set_steps(epochs * self.steps_per_epoch, start_step=start_step)
        self._orders = PerEpoch(self._make_order)
        self._last: tuple[tuple[int, tuple[int, int]], Batch] | None = None

    def whole(self, step: int, index: int) -> Batch:
        """Returns all micro-batches of a step, and keeps them for the next calls."""
        columns, fewer = extent = self._extent_to_show(step, index)
        known = self._last
        if known is None or known[0] != (step, extent):
            made = self.batch(step, extra_columns=columns)
            if fewer:
                made = keras.tree.map_structure(lambda array: array[:-fewer], made)
            known = self._last = (step, extent), made
        return known[1]

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on an epoch is a single step."""
        return -(-len(self.encoded) // self.gradient_accumulation)

    @abc.abstractmethod
    def batch(self, step: int, extra_columns: int = 0) -> Batch:
        """Makes all `batch_size * gradient_accumulation` texts of optimizer step `step`, counted from 0.

        Args:
            step: the step, below `steps`.
            extra_columns: number of padding columns beyond the batch's length.
        """

    def real_tokens(self, step: int) -> int:
        """Returns the number of tokens in the texts of a step, without padding."""
        chosen = self._texts_of(step)
        return int(self.lengths[chosen[chosen >= 0]].sum())

    def _extent_to_show(self, step: int, index: int) -> tuple[int, int]:
        """Returns how many columns item `index`, of step `step`, has in addition, and how many rows it lacks."""
        return 0, 0

    def _texts_of(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._order_of_epoch(epoch)[position]

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        """Returns the indices of the texts of each step, int64 (steps, texts), with -1 for empty rows."""
        return self._orders[epoch]

    @abc.abstractmethod
    def _make_order(self, epoch: int) -> np.ndarray:
        """Returns a new draw of the texts of each step of an epoch, as `_order_of_epoch` returns them."""
