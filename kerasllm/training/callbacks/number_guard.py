"""Decides what happens when numbers go wrong: a loss or gradient that is not finite, or a loss that jumps.

The compiled step itself makes sure that a batch that is not finite changes no weight
(`LanguageModel.catch_non_finite`). The default then stops the run: such a batch is a fault in the data or the sign
of a training that has diverged, and going on would hide either.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras

from kerasllm.cli.ranges import above, at_least, check_ranges
from kerasllm.errors import InputError, counted
from kerasllm.training.callbacks.checkpoint import Checkpoint
from kerasllm.training.callbacks.metrics_log import MetricsLog
from kerasllm.training.callbacks.step import StepCallback

WENT_WRONG = 3
"""Exit code of a run that was stopped because of its numbers."""

_WINDOW = 100  # losses that a jump is measured against
_FEWEST = 20


@dataclass(frozen=True)
class GuardOptions:
    """Settings for what a run does about numbers that go wrong."""

    non_finite: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is not finite, stop (exit code 3) or skip the batch; it never changes a weight."""

    skip_limit: int = field(default=10, metadata=at_least(1))
    """Maximum number of skipped batches; one more stops the run."""

    loss_spike: float | None = field(default=None, metadata=above(1))
    """Stop if a step's loss is above this many times the median of the last 100; null for never."""

    replay: bool = False
    """With --resume: rerun only the batch that stopped the run, from the same state, and print its figures."""

    def __post_init__(self) -> None:
        check_ranges(self, "--guard.")


class NumberGuard(StepCallback):
    """A callback that stops or skips at a loss or gradient that is not finite, and stops when the loss jumps.

    Place it before `Checkpoint`. A step at which it stops is not saved: the last good checkpoint stays the newest.
    A bad batch leaves the weights unchanged only in a `LanguageModel`; of other models only the loss is watched,
    after the update.

    Args:
        options: what to do.
        checkpoint: the callback that must not save a state that has gone wrong.
        metrics_log: the log that receives `skipped`, the number of batches left out so far.
        save_batch: function called when a batch stops the run, with the batch's number in this call of `fit`, its
            step and its figures; returns where the batch is saved, for the message.
        gradient_accumulation: batches per optimizer step.
        start_step: steps done before.

    Attributes:
        skipped: batches left out so far, over all sessions.
        stopped: whether it has stopped the run.
    """

    def __init__(
        self,
        options: GuardOptions | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        metrics_log: MetricsLog | None = None,
        save_batch: Callable[[int, int, Mapping[str, float]], Path | None] | None = None,
        gradient_accumulation: int = 1,
        start_step: int = 0,
    ) -> None:
        super().__init__(gradient_accumulation=gradient_accumulation, start_step=start_step)
        self.options = options or GuardOptions()
        self.checkpoint = checkpoint
        self.metrics_log = metrics_log
        self.save_batch = save_batch
        self.skipped = 0
        self.stopped = False
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._why = ""

    def set_model(self, model: keras.Model) -> None:
        """Sets the model and switches on its `catch_non_finite`; called by Keras."""
        super().set_model(model)
        if getattr(model, "catch_non_finite", None) is False:
            model.catch_non_finite = True
            model.train_function = None  # one compiled before lacks the check

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Checks each batch before the next one starts."""
        figures = logs or {}
        watched = figures.get("gradient_norm", figures.get("loss", 0.0))  # a bad loss gives a bad norm
        if not math.isfinite(watched):
            self._judge(batch, figures)
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Compares the step's loss with those before it."""
        loss = values.get("loss", math.nan)
        limit = self.options.loss_spike
        if limit is not None and not self.stopped and len(self._losses) >= _FEWEST:
            median = statistics.median(self._losses)
            if loss > limit * median:
                reason = (
                    f"the loss {loss:.4g} is above {limit:g} times the median {median:.4g} of the last steps"
                )
                self._stop(f"step {step}: {reason}", "without --guard.loss_spike it trains on")
        if math.isfinite(loss):
            self._losses.append(loss)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Says why the run was stopped, below what the callbacks before this one have to tell of its end."""
        if self._why:
            print(self._why, file=sys.stderr)

    def get_state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"skipped": self.skipped, "losses": list(self._losses)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self.skipped = int(state["skipped"])
        self._losses = deque(map(float, state["losses"]), maxlen=_WINDOW)

    def _judge(self, batch: int, figures: Mapping[str, float]) -> None:
        step = self.step + 1
        norm = figures.get("gradient_norm", math.nan)
        what = f"step {step}: loss {figures.get('loss', math.nan):.4g}, gradient norm {norm:.4g}"
        options = self.options
        if options.non_finite == "skip" and self.skipped < options.skip_limit:
            self.skipped += 1
            print(f"{what}: batch left out ({self.skipped} of {options.skip_limit})", file=sys.stderr)
            if self.metrics_log is not None:
                self.metrics_log.add(step, {"skipped": self.skipped})
            return
        place = None
        if self.save_batch is not None:
            try:
                place = self.save_batch(batch, step, figures)
            except (OSError, InputError) as error:
                print(f"the batch cannot be saved: {error}", file=sys.stderr)
        if options.non_finite == "skip":
            what += f", and {counted(self.skipped, 'batch', 'batches')} had been left out before"
        mend = "--guard.non_finite skip leaves such a batch out"
        self._stop(what, f"{mend}; it is saved in {place}, --guard.replay runs it again" if place else mend)

    def _stop(self, what: str, mend: str) -> None:
        self.stopped = True
        if self.checkpoint is not None:
            self.checkpoint.forbid()
        self._why = f"stopped at {what}; --resume goes on from the last good checkpoint; {mend}"
        self.trainer.stop_training = True
