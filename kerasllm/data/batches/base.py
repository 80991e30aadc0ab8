"""What all batches share: steps, micro-batches, the weights of a step, and what is kept of an epoch."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import keras
import numpy as np

from kerasllm.data.batches.prefetch import Prefetcher
from kerasllm.errors import InputError

Item = TypeVar("Item")


class MicroBatches(keras.utils.PyDataset, abc.ABC):
    """Optimizer steps, each drawn as one batch and handed out in `gradient_accumulation` micro-batches.

    So accumulating sees the examples of the larger batch. A batch is a pure function of the seed and the step:
    nothing is stored between steps, and an interrupted run goes on with exactly the batches it would have had.
    Give `fit` these batches with `shuffle=False`, or it will mix the micro-batches of different steps.

    Keras' accumulation averages the *means* of the micro-batches, which is not the mean over the step where some
    hold less than others. With `normalize_weights` (the default with accumulation) the weights are w * K / W
    instead of w, where K is `gradient_accumulation` and W the sum of the weights over the step's K micro-batches.
    Build the loss with `reduction="sum"` then: the K sums, averaged, are the mean over the whole step.

    A subclass calls `set_steps` at the end of its `__init__`. An item is a nested structure of arrays whose first
    axis is the rows.

    Args:
        batch_size: examples of a micro-batch.
        gradient_accumulation: micro-batches of a step.
        normalize_weights: see above; None: when `gradient_accumulation` is above 1.

    Attributes:
        rows_per_batch: rows of a micro-batch; `batch_size` unless a subclass packs its examples.
        examples_per_step: `batch_size * gradient_accumulation`.
        steps: optimizer steps of the whole run.
        start_step: the first step that is handed out, counted from 0.
        shapes: how many different shapes the batches have, each of which is compiled.
    """

    shapes = 1
    steps: int
    start_step: int

    def __init__(
        self, *, batch_size: int, gradient_accumulation: int = 1, normalize_weights: bool | None = None
    ) -> None:
        super().__init__()
        check_positive(batch_size=batch_size, gradient_accumulation=gradient_accumulation)
        self.batch_size = self.rows_per_batch = batch_size
        self.gradient_accumulation = gradient_accumulation
        self.examples_per_step = batch_size * gradient_accumulation
        self.normalize_weights = gradient_accumulation > 1 if normalize_weights is None else normalize_weights

    def set_steps(self, steps: int, *, start_step: int = 0, prefetch: int = 0) -> None:
        """Sets which steps are handed out.

        Args:
            steps: of the whole run.
            start_step: the first step to be handed out; those before it are done already.
            prefetch: steps made ahead, 0 for none.

        Raises:
            InputError: `start_step` is out of range.
        """
        if not 0 <= start_step <= steps:
            raise InputError(f"start_step is {start_step}, it must lie in [0, {steps}], the run's steps")
        self.steps, self.start_step = steps, start_step
        self._ahead = Prefetcher(self.batch, depth=prefetch, stop=steps)

    def __len__(self) -> int:
        """Returns the number of micro-batches from `start_step` on."""
        return (self.steps - self.start_step) * self.gradient_accumulation

    def __getitem__(self, index: int) -> Any:
        """Returns micro-batch `index`, counted from `start_step`."""
        if not 0 <= index < len(self):
            raise IndexError(f"micro-batch {index} of {len(self)}")
        step, part = divmod(index, self.gradient_accumulation)
        rows = slice(part * self.rows_per_batch, (part + 1) * self.rows_per_batch)
        return keras.tree.map_structure(lambda array: array[rows], self.whole(self.start_step + step, index))

    def whole(self, step: int, index: int) -> Any:
        """Returns all micro-batches of a step, of which that of `index` is asked for."""
        return self._ahead.get(step)

    @abc.abstractmethod
    def batch(self, step: int) -> Any:
        """Makes all micro-batches of optimizer step `step`, counted from 0."""

    def normalized(self, weights: np.ndarray) -> np.ndarray:
        """Returns the weights of a whole step as the loss is to have them, see the class."""
        if not self.normalize_weights:
            return weights
        total = weights.sum(dtype=np.float64)
        return (weights * (self.gradient_accumulation / max(total, 1))).astype(np.float32)


class PerEpoch(Generic[Item]):
    """What belongs to an epoch, by its number, made on first use.

    That of the epochs beside the last one asked for is kept: while one epoch is still being used, a thread may
    make batches of the next.

    Args:
        make: a pure function of the epoch's number.
    """

    def __init__(self, make: Callable[[int], Item]) -> None:
        self._make = make
        self._known: dict[int, Item] = {}
        self._lock = threading.Lock()

    def __getitem__(self, epoch: int) -> Item:
        """Returns what belongs to epoch `epoch`."""
        with self._lock:
            if epoch not in self._known:
                self._known = {other: item for other, item in self._known.items() if abs(other - epoch) == 1}
                self._known[epoch] = self._make(epoch)
            return self._known[epoch]


def check_positive(**settings: int) -> None:
    """Checks that each setting is at least 1.

    Raises:
        InputError: names the first that is not.
    """
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name} is {value}, it must be at least 1")
