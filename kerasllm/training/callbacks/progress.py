"""Shows how far training has come: with one changing line in a terminal, with occasional plain lines in a log file.

Both go to standard error, since standard output is left to the recipe.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from kerasllm.training.callbacks.step import StepCallback

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_UPDATES = 0.25  # in a terminal
_STEPS_TO_TIME = 5  # after the first
_NARROWEST_BAR = 10  # characters


class Progress(StepCallback):
    """A callback that shows step, loss, remaining and elapsed time, tokens per second and the FLOP/s utilization (MFU).

    They stand in this order, and a terminal that is too narrow shows the first ones only. The time until the first
    step ends, most of which is often compilation, and the time of a later step are told apart.

    Args:
        total_steps: the last step.
        gradient_accumulation: batches per optimizer step.
        tokens_per_step: tokens that an optimizer step trains on, or a function from the step to them; None leaves
            out the speed.
        utilization: a function from the tokens per second to the MFU, at most 1, or None where that is unknown; see
            `Utilization.share`.
        compiles: whether the training step is compiled before it runs for the first time.
        start_step: steps done before.
        stream: the output, standard error if None; unless it is a terminal, it gets a line at most every 10 s.

    Attributes:
        activity: what is done instead of training, such as "validating"; shown in a terminal, empty for nothing.
        pause: function called with the seconds that measuring took, which are no training time.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        gradient_accumulation: int = 1,
        tokens_per_step: float | Callable[[int], float] | None = None,
        utilization: Callable[[float], float | None] | None = None,
        compiles: bool = False,
        start_step: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(gradient_accumulation=gradient_accumulation, start_step=start_step)
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.utilization = utilization
        self.compiles = compiles
        self.activity = ""
        self.pause: Callable[[float], None] = self.exclude
        self._stream = stream
        self._live: Any = None
        self._console: Any = None
        self._began: float | None = None
        self._ended: float | None = None
        self._first_step = (0.0, 0)  # the time at which this session's first step ended, and its number
        self._step_seconds: list[float] | None = []  # of the steps after it, until they have been told
        self._last_step_at = 0.0
        self._excluded = 0.0  # seconds since then that were not spent on training
        self._shown_at = 0.0
        self._measured_from = 0.0
        self._tokens = 0.0
        self._speed = math.nan
        self._share: float | None = None
        self._loss = math.nan

    def start(self) -> None:
        """Starts the clock and says that training begins; call it before `fit`, which may take long until it trains."""
        if self._began is not None:
            return
        self._began = self._shown_at = self._measured_from = time.monotonic()
        self.activity = "compiling …" if self.compiles else "first step …"
        stream = self._stream or sys.stderr
        if stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=stream)
            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=sys.stdout.isatty(),  # what goes to a file stays there
            )
            self._live.start()
        else:
            self.say("compiling the training step …" if self.compiles else "making the first step …")

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Starts, if `start` was not called."""
        self.start()

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Updates a terminal at most four times a second, or writes a line at most every ten seconds."""
        now = time.monotonic()
        self._loss = values.get("loss", math.nan)
        if self.tokens_per_step is not None:
            tokens = self.tokens_per_step
            self._tokens += tokens(step) if callable(tokens) else tokens
        if not self._first_step[1]:
            self._first_step = (now, step)
            self._shown_at = now  # its time is told first
            self.activity = ""
            if self.total_steps > step:  # its compilation does not count as training
                self._measured_from, self._tokens = now, 0.0
        elif self._step_seconds is not None:
            self._step_seconds.append(now - self._last_step_at - self._excluded)
            if len(self._step_seconds) >= _STEPS_TO_TIME or now - self._first_step[0] > 5.0:
                self._tell_times()
        self._last_step_at, self._excluded = now, 0.0
        if now - self._shown_at < (_SECONDS_BETWEEN_UPDATES if self._live else _SECONDS_BETWEEN_LINES):
            return
        self._show(now)

    def exclude(self, seconds: float) -> None:
        """Excludes time that was not spent on training from the speed, but not from the estimate of remaining time."""
        self._measured_from += seconds
        self._excluded += seconds

    def say(self, text: str) -> None:
        """Writes a line of its own, in a terminal above the line that changes."""
        if self._live is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream or sys.stderr, flush=True)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Shows the last step."""
        self._tell_times()
        self._show(time.monotonic(), last=True)
        self.close()

    def close(self) -> None:
        """Leaves the line in the terminal as it is, also after training has failed; it may be called twice."""
        live, self._live = self._live, None
        if live is not None:
            self._ended = time.monotonic()
            live.stop()

    def _show(self, now: float, last: bool = False) -> None:
        seconds, tokens = now - self._measured_from, self._tokens
        self._shown_at, self._measured_from, self._tokens = now, now, 0.0
        if tokens and seconds > 0:
            # The speed is smoothed over the last few windows, since that of a single one varies a lot.
            speed = tokens / seconds
            self._speed = speed if math.isnan(self._speed) else 0.7 * self._speed + 0.3 * speed
            if self.utilization is not None:
                began = time.monotonic()
                self._share = self.utilization(self._speed)
                self.pause(time.monotonic() - began)
        if last:
            self._ended = now
        if self._live is None:
            self.say("  ".join(self._parts(now)))

    def _parts(self, now: float) -> list[str]:
        """Returns the parts of the line, the most important one first."""
        parts = [f"step {self.step}/{self.total_steps}"]
        if self.activity:
            parts.append(self.activity)
        if not math.isnan(self._loss):
            parts.append(f"loss {self._loss:.4f}")
        began, first = self._first_step
        if (
            self.step > first and self._ended is None
        ):  # the first step would mislead, as it includes compilation
            left = (self.total_steps - self.step) * (self._last_step_at - began) / (self.step - first)
            parts.append(f"{_clock(left)} left")
        parts.append(f"{_clock(now - (self._began or now))} elapsed")
        if not math.isnan(self._speed):
            parts.append(f"{self._speed:,.0f} tokens/s")
        if self._share is not None:
            parts.append(f"MFU {100 * self._share:.1f} %")
        return parts

    def _line(self) -> Any:
        """Returns the line for the terminal, as many parts as it has room for, and a bar if there is room."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self._console.width
        parts = self._parts(self._ended or time.monotonic())
        while len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
        text = "  ".join(parts)
        room = width - len(text) - 2
        if room < _NARROWEST_BAR:
            return Text(text, no_wrap=True, overflow="ellipsis")
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(ProgressBar(total=self.total_steps, completed=self.step, width=min(room, 40)), text)
        return line

    def _tell_times(self) -> None:
        """Tells once how long the first step took, and a later one."""
        seconds, self._step_seconds = self._step_seconds, None
        began, first = self._first_step
        if seconds is None or not first or self._began is None:
            return
        compiled = " (compilation)" if self.compiles else ""
        text = f"first step after {_duration(began - self._began)}{compiled}"
        self.say(f"{text}, then {_duration(statistics.median(seconds))} a step" if seconds else text)


def in_words(figures: Mapping[str, Any]) -> str:
    """Returns the numbers among figures as readable text: `loss 2.3456, perplexity 10.4400, tokens 8,192`."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return ", ".join(
        f"{name.replace('_', ' ')} "
        + (f"{value:,.{4 if abs(value) < 100 else 1}f}" if isinstance(value, float) else f"{value:,}")
        for name, value in numbers.items()
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _duration(seconds: float) -> str:
    """Returns a time with its unit: `4.2 ms`, `84 ms` or `12.3 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
