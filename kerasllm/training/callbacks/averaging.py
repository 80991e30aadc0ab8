"""Ends training with the mean of the weights at its last checkpoints.

Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 6.1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasllm import backend
from kerasllm.training.callbacks.step import StepCallback


class WeightAverage(StepCallback):
    """A callback that replaces the weights by their mean over several of the last steps, when training ends.

    The steps are the last one and those `interval`, `2 * interval` … before it. Only what is trained is averaged. The
    sum is part of a checkpoint, so a resumed run ends with the same weights.

    Args:
        count: number of steps whose weights are averaged.
        interval: steps between two of them.
        total_steps: the last step.
        gradient_accumulation: batches per optimizer step.
        start_step: steps done before.

    Raises:
        ValueError: the first of the steps would be before the first step of training.
    """

    def __init__(
        self,
        count: int,
        *,
        interval: int,
        total_steps: int,
        gradient_accumulation: int = 1,
        start_step: int = 0,
    ) -> None:
        super().__init__(gradient_accumulation=gradient_accumulation, start_step=start_step)
        self.total_steps = total_steps
        self.steps = range(total_steps - (count - 1) * interval, total_steps + 1, interval)
        if self.steps[0] < 1:
            raise ValueError(
                f"{count} times {interval} steps are more than the {total_steps} of the training"
            )
        self._totals: list[np.ndarray] = []
        self._continues = False

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Adds the weights, if they are to be averaged."""
        if step not in self.steps:
            return
        model = self.model  # on JAX, reading it copies this step's state into the variables
        weights = [backend.whole(some).astype("float32") for some in model.trainable_variables]
        if step == self.steps[0]:
            self._totals = [np.zeros_like(some) for some in weights]
        for total, some in zip(self._totals, weights, strict=True):
            total += some

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Replaces the weights, unless training was interrupted."""
        if self.step == self.total_steps:
            for variable, total in zip(self.model.trainable_variables, self._totals, strict=True):
                backend.assign(variable, total / len(self.steps))

    def get_state(self) -> dict[str, Any]:
        """Returns the averaged steps, for a checkpoint."""
        return {"steps": list(self.steps)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned; of a training that has become longer, averaging may not have begun."""
        self._continues = list(state["steps"]) == list(self.steps)
        if not self._continues and self.step >= self.steps[0]:
            raise ValueError(f"it was to average the steps {state['steps']}, not {list(self.steps)}")

    def get_arrays(self) -> dict[str, np.ndarray]:
        """Returns a copy of the sums so far, by position among the trained weights."""
        return {f"{index:05d}": total.copy() for index, total in enumerate(self._totals)}

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores what `get_arrays` returned."""
        if self._continues:
            self._totals = [np.array(arrays[name]) for name in sorted(arrays)]
