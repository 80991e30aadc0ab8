"""Validates during training without changing the training.

`evaluate` inside `fit` has side effects: on PyTorch it leaves the module in evaluation mode and its data loader
draws from the global generator, and on JAX the model's variables are empty during an epoch until the state is
copied back into them. All of this is undone here, so that a run with validation ends with the same weights, to the
bit, as one without.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.training.callbacks.interruption import BrokenOff, break_off_if_told
from kerasllm.training.callbacks.metrics_log import MetricsLog
from kerasllm.training.callbacks.progress import Progress, in_words
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.run.together import figures_of_first
from kerasllm.training.state.random_states import get_random_states, set_random_states

_PREFIX = "validation_"
_NOT_TOLD = ("tokens", "examples", "mse")  # these do not change, or are the loss itself


def less_is_better(figure: str) -> bool:
    """Returns whether less of a figure is better, by its name."""
    return any(word in figure for word in ("loss", "perplexity", "error"))


class Evaluation(StepCallback):
    """A callback that validates every `interval` steps and at the end; it may stop early and restore the best weights.

    Place it after `MetricsLog`, which logs its figures as `validation_loss` and so on, and before `Checkpoint`, among
    whose `callbacks` it must be: the best weights and the patience are part of a checkpoint.

    If `evaluate` calls `break_off_if_told` between its batches, validation is broken off when the run is told to
    stop, and the resumed run makes it (`make_up`) before it trains on.

    Args:
        evaluate: function from the model to the figures.
        interval: optimizer steps between validations; None for one at the end only.
        total_steps: the last step.
        gradient_accumulation: batches per optimizer step.
        start_step: steps done before.
        restore_best: whether to restore the weights with the best figure at the end. They are kept in memory.
        patience: validations without improvement after which training stops; None for never.
        monitor: the figure that decides which is best, named as `evaluate` names it.
            See `less_is_better` for whether less of it or more is better.
        metrics_log: the log that receives the figures.
        progress: the display that shows the figures; without it they are not shown.
        sample: function called with the model and the step after each validation, to show what the model writes; the
            log receives the text that it returns.

    Attributes:
        figures: figures of the last validation, without prefix.
        best_step: the step with the best figure; 0 before any.
        best_value: the best figure.
        on_better: function called after each validation that is the best so far, such as `Checkpoint.mark_best`.
        on_validation: function called with step and figures after each validation, when they are in the log and the
            best is marked; in a resumed run first with the last ones, of which it may not have been told.
        stopped: whether patience has run out.
        broken_off: whether the validation of the last step is still to be made.
    """

    def __init__(
        self,
        evaluate: Callable[[Any], Mapping[str, float]],
        *,
        total_steps: int,
        interval: int | None = None,
        gradient_accumulation: int = 1,
        start_step: int = 0,
        restore_best: bool = False,
        patience: int | None = None,
        monitor: str = "loss",
        metrics_log: MetricsLog | None = None,
        progress: Progress | None = None,
        sample: Callable[[Any, int], str | None] | None = None,
    ) -> None:
        super().__init__(gradient_accumulation=gradient_accumulation, start_step=start_step)
        self.evaluate = evaluate
        self.interval = interval
        self.total_steps = total_steps
        self.restore_best = restore_best
        self.patience = patience
        self.monitor = monitor.removeprefix(_PREFIX)
        self._sign = -1.0 if less_is_better(self.monitor) else 1.0
        self.metrics_log = metrics_log
        self.progress = progress
        self.sample = sample
        self.figures: dict[str, float] = {}
        self.best_step = 0
        self.best_value = math.nan
        self.on_better: Callable[[], None] | None = None
        self.on_validation: Callable[[int, Mapping[str, float]], None] | None = None
        self.stopped = False
        self.broken_off = False
        self._validated = 0  # the step of `figures`
        self._waited = 0
        self._best_weights: list[np.ndarray] = []

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Validates if that is due."""
        if step == self.total_steps or (self.interval and step % self.interval == 0):
            self._validate(step)

    def make_up(self) -> None:
        """Makes the validation that was broken off, if any; call it after `set_model`, before training goes on."""
        if self.broken_off:
            self._validate(self.step)
        elif self._validated:
            self._tell()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Restores the best weights, if asked to."""
        if self.restore_best and self._best_weights and self.best_step != self.step:
            for variable, values in zip(self.model.weights, self._best_weights, strict=True):
                backend.assign(variable, values)

    def get_state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {
            "best_step": self.best_step,
            "best_value": None if math.isnan(self.best_value) else self.best_value,
            "waited": self._waited,
            "stopped": self.stopped,
            "broken_off": self.broken_off,
            "validated": self._validated,
            "figures": {name: None if math.isnan(value) else value for name, value in self.figures.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self.best_step = int(state["best_step"])
        if self.metrics_log is not None:
            self.metrics_log.best_step = self.best_step
        self.best_value = math.nan if state["best_value"] is None else float(state["best_value"])
        self._validated = int(state.get("validated", 0))
        self._waited = int(state["waited"])
        self.stopped, self.broken_off = bool(state.get("stopped")), bool(state.get("broken_off"))
        self.figures = {
            n: math.nan if value is None else float(value) for n, value in state["figures"].items()
        }

    def get_arrays(self) -> dict[str, np.ndarray]:
        """Returns the best weights for a checkpoint, by position in `model.weights`."""
        return {f"{index:05d}": values for index, values in enumerate(self._best_weights)}

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores what `get_arrays` returned."""
        self._best_weights = [np.array(arrays[name]) for name in sorted(arrays)]

    def _validate(self, step: int) -> None:
        began = time.perf_counter()
        random_states = get_random_states()
        model = self.model  # on JAX, reading it copies this step's state into the variables
        self.broken_off = True
        if self.progress is not None:
            self.progress.activity = "validating …"
        try:
            break_off_if_told()
            figures = dict(self.evaluate(model))
            text = None
            if self.sample is not None:
                break_off_if_told()
                text = self.sample(model, step)
        except BrokenOff:
            return
        finally:
            if self.progress is not None:
                self.progress.activity = ""
            if keras.backend.backend() == "torch":
                model.train()
            set_random_states(random_states)
        self.broken_off = False
        self.figures = figures_of_first({name: float(value) for name, value in figures.items()})
        self._validated = step
        self._judge(step, model)
        if self.progress is not None and self.figures:
            shown = {name: value for name, value in self.figures.items() if name not in _NOT_TOLD}
            best = ", the best so far" if self.best_step == step else ""
            self.progress.say(f"step {step}: validation {in_words(shown)}{best}")
        if self.metrics_log is not None:
            self.metrics_log.best_step = self.best_step
            self.metrics_log.add(step, {_PREFIX + name: value for name, value in self.figures.items()})
            if text:
                self.metrics_log.add_text(step, "sample", text)
        self._tell()
        if self.metrics_log is not None:
            self.metrics_log.exclude(time.perf_counter() - began)

    def _tell(self) -> None:
        if self.on_validation is not None and self.figures:  # there are none if only samples are written
            self.on_validation(self._validated, self.figures)

    def _judge(self, step: int, model: keras.Model) -> None:
        if not self.figures:  # only samples are written
            return
        if self.monitor not in self.figures:
            known = ", ".join(self.figures)
            raise InputError(f"validation gives {known}, but not {self.monitor!r}, which is to be monitored")
        value = self.figures[self.monitor]
        better = math.isnan(self.best_value) or self._sign * value > self._sign * self.best_value
        if better and not math.isnan(value):
            self.best_step, self.best_value, self._waited = step, value, 0
            if self.restore_best:
                # They are copied, since on a CPU these arrays may share memory that training goes on writing to.
                self._best_weights = [np.array(backend.whole(w)) for w in model.weights]
            if self.on_better is not None:
                self.on_better()
            return
        self._waited += 1
        if self.patience is not None and self._waited >= self.patience and step < self.total_steps:
            best = f"{self.monitor} {self.best_value:.4f} at step {self.best_step}"
            print(f"stopped at step {step}: no validation was better than {best}", file=sys.stderr)
            if self.metrics_log is not None:
                self.metrics_log.flush()
            self.stopped = model.stop_training = True
