"""The base class of all batches: optimizer steps, micro-batches, weight normalization, and caching per epoch."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, Generic, TypeVar

import keras
import numpy as np

from kerasllm.data.batches.prefetch import Prefetcher
from kerasllm.data.batches.share import Share
from kerasllm.errors import InputError

Item = TypeVar("Item")


class MicroBatches(keras.utils.PyDataset, abc.ABC):
    """A Keras data set of optimizer steps, each made as one batch and returned in micro-batches.

    So accumulation sees the same examples as the larger batch. A batch is a pure function of the seed and the step:
    nothing is stored between steps, and a resumed run continues with the same batches. Pass these batches to `fit`
    with `shuffle=False`, as it would otherwise mix the micro-batches of different steps.

    Keras' accumulation averages the *means* of the micro-batches, which is not the mean over the step if their sums of
    weights differ. With `normalize_weights` (the default with accumulation) the weights are w * K / W instead of w,
    where K is `gradient_accumulation` and W the sum of the weights over the step's K micro-batches. Build the loss
    with `reduction="sum"` for them: the mean of the K sums is then the mean over the whole step.

    A subclass calls `set_steps` at the end of its `__init__`. An item is a nested structure of arrays whose first
    axis is the rows.

    Args:
        batch_size: number of examples in a micro-batch.
        gradient_accumulation: number of micro-batches in a step.
        normalize_weights: see above; None means only if `gradient_accumulation` is above 1.

    Attributes:
        rows_per_batch: number of rows in a micro-batch; `batch_size` unless a subclass packs its examples.
        examples_per_step: `batch_size * gradient_accumulation`.
        steps: number of optimizer steps of the whole run.
        start_step: the first step that is returned, counted from 0.
        shapes: number of different shapes of the batches, each of which is compiled.
        makes_rows: whether `batch` takes the numbers of rows and makes these alone, as it can where rows of weight 1
            are drawn one by one; otherwise a share is cut out of the whole batch.
    """

    shapes = 1
    makes_rows = False
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
        """Sets the steps that are returned.

        Args:
            steps: number of steps of the whole run.
            start_step: the first step to return, counted from 0, for a resumed run.
            prefetch: number of steps that are made ahead; 0 for none.

        Raises:
            InputError: `start_step` is out of range.
        """
        if not 0 <= start_step <= steps:
            raise InputError(f"start_step is {start_step}, it must lie in [0, {steps}], the run's steps")
        self.steps, self.start_step, self._depth = steps, start_step, prefetch
        self.set_share(Share())

    def set_share(self, share: Share) -> None:
        """Chooses the rows of each micro-batch that are returned, where several processes train together."""
        self._share = share
        make: Callable[[int], Any] = self.batch
        whole = self.rows_per_batch
        self._makes_share = self.makes_rows and share.parts > 1 and whole % share.multiple == 0
        if self._makes_share:
            numbers = np.arange(self.examples_per_step).reshape(-1, whole)[:, share.rows(whole)].reshape(-1)
            make = partial(self.batch, rows=numbers)  # type: ignore[call-arg]
        self._ahead = Prefetcher(make, depth=self._depth, stop=self.steps)

    def __len__(self) -> int:
        """Returns the number of micro-batches from `start_step` on."""
        return (self.steps - self.start_step) * self.gradient_accumulation

    def __getitem__(self, index: int) -> Any:
        """Returns the share of micro-batch `index`, counted from `start_step`."""
        if not 0 <= index < len(self):
            raise IndexError(f"micro-batch {index} of {len(self)}")
        if self._share == Share():
            return self.undivided(index)
        if not self._makes_share:
            return self._share.of(self.undivided(index))
        step, part = divmod(index, self.gradient_accumulation)
        own = self.rows_per_batch // self._share.parts
        made = self.whole(self.start_step + step, index)
        batch = keras.tree.map_structure(lambda array: array[part * own : (part + 1) * own], made)
        return self._share.normalized(batch, self._share.parts)

    def undivided(self, index: int) -> Any:
        """Returns micro-batch `index` with all its rows, whatever the share."""
        step, part = divmod(index, self.gradient_accumulation)
        rows = slice(part * self.rows_per_batch, (part + 1) * self.rows_per_batch)
        step += self.start_step
        made = self.batch(step) if self._makes_share else self.whole(step, index)
        return keras.tree.map_structure(lambda array: array[rows], made)

    def whole(self, step: int, index: int) -> Any:
        """Returns all micro-batches of a step, which item `index` belongs to, or this process's rows of them."""
        return self._ahead.get(step)

    def heaviest(self) -> Any:
        """Returns a micro-batch, with all its rows, of the shape whose training step takes the most memory."""
        return self.undivided(0)

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on an epoch, here all steps, is a single step."""
        return max(self.steps * self.batch_size, 1)

    @abc.abstractmethod
    def batch(self, step: int) -> Any:
        """Makes all micro-batches of optimizer step `step`, counted from 0."""

    def normalized(self, weights: np.ndarray, parts: float = 1) -> np.ndarray:
        """Returns the weights of a whole step, normalized if `normalize_weights` is set; see the class.

        Args:
            weights: the weights.
            parts: the number of parts with the same sum of weights that the step has.
        """
        if not self.normalize_weights:
            return weights
        total = weights.sum(dtype=np.float64) * parts
        return (weights * (self.gradient_accumulation / max(total, 1))).astype(np.float32)


class PerEpoch(Generic[Item]):
    """A cache of items by the number of their epoch, each made on first use.

    The items of the epochs before and after the latest one are kept, as a thread may make batches of the next epoch
    while one is still in use.

    Args:
        make: a pure function that returns the item of an epoch by its number.
    """

    def __init__(self, make: Callable[[int], Item]) -> None:
        self._make = make
        self._known: dict[int, Item] = {}
        self._lock = threading.Lock()

    def __getitem__(self, epoch: int) -> Item:
        """Returns the item of an epoch."""
        with self._lock:
            if epoch not in self._known:
                self._known = {other: item for other, item in self._known.items() if abs(other - epoch) == 1}
                self._known[epoch] = self._make(epoch)
            return self._known[epoch]


def check_positive(**settings: int) -> None:
    """Checks that each setting is a whole number of at least 1.

    Raises:
        InputError: one is not; the message names the first.
    """
    for name, value in settings.items():
        if not isinstance(value, Integral):
            raise InputError(f"{name} is {value!r}, it must be a whole number of at least 1")
        if value < 1:
            raise InputError(f"{name} is {value}, it must be at least 1")
