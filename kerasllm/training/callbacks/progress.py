"""Shows how far training has come: with a bar in a terminal, with occasional plain lines in a log file.

Both go to standard error, since standard output is left to the recipe.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from kerasllm.training.callbacks.step import StepCallback

_SECONDS_BETWEEN_LINES = 10.0


class Progress(StepCallback):
    """A callback that shows step, loss, tokens per second, model FLOP/s utilization (MFU), elapsed and remaining time.

    Args:
        total_steps: the last step.
        gradient_accumulation: batches per optimizer step.
        tokens_per_step: tokens that an optimizer step trains on, or a function from the step to them; None leaves
            out the speed.
        peak_tokens_per_second: the speed whose MFU is 100 %; None leaves out the MFU.
        start_step: steps done before.
        stream: the output, standard error if None; unless it is a terminal, it gets a line at most every 10 s.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        gradient_accumulation: int = 1,
        tokens_per_step: float | Callable[[int], float] | None = None,
        peak_tokens_per_second: float | None = None,
        start_step: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(gradient_accumulation=gradient_accumulation, start_step=start_step)
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.peak_tokens_per_second = peak_tokens_per_second
        self._stream = stream
        self._bar: Any = None
        self._task: Any = None
        self._began = 0.0
        self._first_step = (
            0.0,
            0,
        )  # the time at which this session's first step ended, and its number
        self._shown_at = 0.0
        self._measured_from = 0.0
        self._tokens = 0.0
        self._speed = math.nan
        self._loss = math.nan

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Shows the bar if the stream is a terminal."""
        self._began = self._shown_at = self._measured_from = time.monotonic()
        stream = self._stream or sys.stderr
        if stream.isatty() and self._bar is None:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.BarColumn(bar_width=None),
                progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                progress.TextColumn("{task.fields[figures]}"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[left]}"),
                console=Console(file=stream),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(
                "training", total=self.total_steps, completed=self.step, figures="", left=""
            )
            self._bar.start()

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Refreshes the bar at most four times a second, or writes a line at most every ten seconds."""
        now = time.monotonic()
        self._loss = values.get("loss", math.nan)
        if self.tokens_per_step is not None:
            tokens = self.tokens_per_step
            self._tokens += tokens(step) if callable(tokens) else tokens
        if not self._first_step[1]:
            self._first_step = (now, step)
            if self.total_steps > step:  # its compilation does not count as training
                self._measured_from, self._tokens = now, 0.0
        if now - self._shown_at < (0.25 if self._bar else _SECONDS_BETWEEN_LINES):
            return
        self._show(now)

    def exclude(self, seconds: float) -> None:
        """Excludes time that was not spent on training from the speed, but not from the estimate of remaining time."""
        self._measured_from += seconds

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Shows the last step and closes the bar."""
        self._show(time.monotonic(), last=True)
        self.close()

    def close(self) -> None:
        """Stops the bar, also after training has failed; it may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, now: float, last: bool = False) -> None:
        seconds = now - self._measured_from
        if self._tokens and seconds > 0:
            # The speed is smoothed over the last few windows, since that of a single one varies a lot.
            speed = self._tokens / seconds
            self._speed = speed if math.isnan(self._speed) else 0.7 * self._speed + 0.3 * speed
        self._shown_at = self._measured_from = now
        self._tokens = 0.0
        figures = [] if math.isnan(self._loss) else [f"loss {self._loss:.4f}"]
        if not math.isnan(self._speed):
            figures.append(f"{self._speed:,.0f} tokens/s")
            if self.peak_tokens_per_second:
                figures.append(f"MFU {100 * self._speed / self.peak_tokens_per_second:.1f} %")
        left = "" if last else self._left(now)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step, figures="  ".join(figures), left=left)
        else:
            parts = [f"step {self.step}/{self.total_steps}", *figures, f"{_clock(now - self._began)} elapsed"]
            parts += [left] if left else []
            print("  ".join(parts), file=self._stream or sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        """Returns the remaining time, estimated from the steps after the first, which includes compilation."""
        began, first = self._first_step
        if self.step <= first:
            return ""
        return f"{_clock((self.total_steps - self.step) * (now - began) / (self.step - first))} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
