"""What batches of labelled texts share, padded or packed: steps of so many texts, each text once an epoch."""

from __future__ import annotations

import abc
import threading

import numpy as np

from kerasllm.data.batches.base import MicroBatches
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.errors import InputError

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]

GRANULE = 16
"""Rows have a multiple of it as their length, which matrix units like."""


class LabelledBatches(MicroBatches):
    """Batches of texts with a class or a number each, every text exactly once an epoch.

    A step uses `batch_size * gradient_accumulation` texts, drawn as one batch and handed out in
    `gradient_accumulation` micro-batches. Their number of rows never changes: what an epoch lacks is filled up
    with weight 0. Give `fit` these batches with `shuffle=False`.

    With accumulation weights are w * K / W instead of w, K being `gradient_accumulation` and W the sum of
    the weights over the step. Build the loss with `reduction="sum"` then: the K sums, averaged, are the mean
    over the whole step, also where some micro-batches hold less than others.

    Args:
        encoded: the texts.
        labels: integers or floats (texts,); None for prediction, all 0 then.
        batch_size: texts of a micro-batch.
        seed: of the order.
        epochs: passes over all texts.
        gradient_accumulation: micro-batches of a step.
        start_step: the first step to be handed out, counted from 0; those before it are done already.
        normalize_weights: see above; None: when `gradient_accumulation` is above 1.

    Raises:
        InputError: a setting is out of range, or there are no texts.
    """

    shapes: int  # how many of them batches have

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
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("gradient_accumulation", gradient_accumulation),
            ("epochs", epochs),
        ):
            if value < 1:
                raise InputError(f"{name} is {value}, it must be at least 1")
        if len(encoded) == 0:
            raise InputError("there are no texts to make batches of")
        if labels is None:
            labels = np.zeros(len(encoded), np.int32)
        if labels.shape != (len(encoded),):
            raise ValueError(f"labels of shape {labels.shape} for {len(encoded)} texts")
        self.encoded, self.lengths = encoded, encoded.lengths
        self.labels = labels.astype(np.int32 if np.issubdtype(labels.dtype, np.integer) else np.float32)
        self.batch_size, self.gradient_accumulation = batch_size, gradient_accumulation
        self.seed, self.epochs = seed, epochs
        self.normalize_weights = gradient_accumulation > 1 if normalize_weights is None else normalize_weights
        self.steps_per_epoch = -(-len(encoded) // (batch_size * gradient_accumulation))
        self.steps = epochs * self.steps_per_epoch
        if not 0 <= start_step <= self.steps:
            raise InputError(f"start_step is {start_step}, it must lie in [0, {self.steps}], the run's steps")
        self.start_step = start_step
        self._orders: dict[int, np.ndarray] = {}
        self._orders_lock = threading.Lock()
        self._last: tuple[tuple[int, int], Batch] | None = None

    def whole(self, step: int, index: int) -> Batch:
        """See the base class; the last one is kept for the micro-batches after."""
        wanted = step, self._columns_to_show(index)
        known = self._last
        if known is None or known[0] != wanted:
            known = self._last = wanted, self.batch(step, extra_columns=wanted[1])
        return known[1]

    @abc.abstractmethod
    def batch(self, step: int, extra_columns: int = 0) -> Batch:
        """All `batch_size * gradient_accumulation` texts of optimizer step `step`, counted from 0.

        Args:
            step: below `steps`.
            extra_columns: padding beyond the batch's length.
        """

    def real_tokens(self, step: int) -> int:
        """Tokens of the texts of a step, padding not counted."""
        chosen = self._texts_of(step)
        return int(self.lengths[chosen[chosen >= 0]].sum())

    def _columns_to_show(self, index: int) -> int:
        """Columns of padding beyond the batch's length in item `index`."""
        return 0

    def _texts_of(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._order_of_epoch(epoch)[position]

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        """The texts of each step, int64 (steps, texts); -1 where there is none."""
        with self._orders_lock:
            if epoch not in self._orders:
                self._orders = {
                    other: order for other, order in self._orders.items() if abs(other - epoch) == 1
                }
                self._orders[epoch] = self._make_order(epoch)
            return self._orders[epoch]

    @abc.abstractmethod
    def _make_order(self, epoch: int) -> np.ndarray:
        """That of an epoch."""

    def _weights(self, real: np.ndarray, count: int) -> np.ndarray:
        """1 where there is a text, 0 elsewhere; normalized by the `count` of the step's texts."""
        weights = real.astype(np.float32)
        if self.normalize_weights:
            weights *= np.float32(self.gradient_accumulation / count)
        return weights
