"""Tells callbacks of optimizer steps, where Keras tells them of batches.

None of the callbacks built on this sets `async_safe`. Keras hands the batches of "async safe" callbacks to a
pool of several threads, where two batches may run at once and in either order, while the training thread goes
on to the next. A checkpoint of step n must hold the figures up to step n and no further, so all of them run
in the training thread, one batch after the other. The price is that Keras reads each batch's loss from the device
before it starts the next batch, which takes a fraction of a millisecond.
"""

from collections.abc import Mapping
from typing import Any

import keras


class StepCallback(keras.callbacks.Callback):
    """A callback whose `on_step_end(step, values)` is called after each optimizer step.

    Args:
        gradient_accumulation: batches per optimizer step.
        start_step: optimizer steps done before this call of `fit`.

    Attributes:
        step: optimizer steps done so far, over all sessions of a run.
        trainer: the model, without the synchronization that reading `self.model` does on JAX.
    """

    def __init__(self, *, gradient_accumulation: int = 1, start_step: int = 0) -> None:
        super().__init__()
        if gradient_accumulation < 1:
            raise ValueError(f"gradient_accumulation must be at least 1, not {gradient_accumulation}")
        self.gradient_accumulation = gradient_accumulation
        self.step = start_step
        self.trainer: Any = None
        self._batches = 0
        self._sums: dict[str, float] = {}

    def set_model(self, model: keras.Model) -> None:
        """Sets the model; called by Keras."""
        super().set_model(model)
        self.trainer = model

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Adds up the batches of a step; called by Keras after each batch, with the values of that batch alone."""
        if self.gradient_accumulation == 1:
            self.step += 1
            self.on_step_end(self.step, dict(logs or {}))
            return
        for name, value in (logs or {}).items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._batches += 1
        if self._batches == self.gradient_accumulation:
            values = {name: total / self._batches for name, total in self._sums.items()}
            self._batches, self._sums = 0, {}
            self.step += 1
            self.on_step_end(self.step, values)

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Called after each optimizer step.

        Args:
            step: number of the step, counted from 1 over all sessions of a run.
            values: the logs by name, each as the mean over the step's batches.
        """
