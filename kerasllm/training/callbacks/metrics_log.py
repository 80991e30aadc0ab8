"""Writes every figure of a run by optimizer step, to metrics.jsonl and for TensorBoard.

The file of a run that was interrupted and resumed equals that of an uninterrupted run, except for the timings: the
sums since the last line are part of the checkpoint, and lines written after the checkpoint are dropped.
"""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras

from kerasllm.errors import DISK_FULL
from kerasllm.files.atomic import write_atomically
from kerasllm.files.json import to_json
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.callbacks.tensorboard import EventWriter
from kerasllm.training.run.curves import plot_curves

_SECONDS_BETWEEN_PICTURES = 600.0


def default_log_interval(total_steps: int) -> int:
    """Returns 1 for a run of up to 100 steps, otherwise 10."""
    return 1 if total_steps <= 100 else 10


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, without those that are incomplete."""
    lines = []
    for text in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class MetricsLog(StepCallback):
    """A callback that appends lines: `{"step": 40, "loss": 6.1, "learning_rate": 1e-4, "tokens_per_second": 9120.0}`.

    `loss` and the model's other metrics are means over the steps since the previous line, in float64;
    `learning_rate` is the one of the line's step; `tokens_per_second` excludes time spent elsewhere (`exclude`).
    Place it first among the callbacks, before `Evaluation`, which adds to its lines, and `Checkpoint`. While the
    disk is full the lines wait in memory and no checkpoint counts; an error is raised only at the end.

    The picture of the curves is drawn at the end and, in a longer run, about once in ten minutes.

    Args:
        path: the run directory, which receives metrics.jsonl, tensorboard/ and curves.png.
        total_steps: the last step, which always gets a line.
        log_interval: steps between lines; `default_log_interval(total_steps)` if None.
        gradient_accumulation: batches per optimizer step.
        tokens_per_step: tokens that an optimizer step trains on, or a function from the step to them; None leaves
            out the speed.
        start_step: steps done before; lines of later steps are dropped when training begins.

    Attributes:
        best_step: the step whose validation was the best so far, which the picture marks; 0 before any.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        total_steps: int,
        log_interval: int | None = None,
        gradient_accumulation: int = 1,
        tokens_per_step: float | Callable[[int], float] | None = None,
        start_step: int = 0,
    ) -> None:
        super().__init__(gradient_accumulation=gradient_accumulation, start_step=start_step)
        self.directory = Path(path)
        self.path = self.directory / "metrics.jsonl"
        self.total_steps = total_steps
        self.log_interval = log_interval or default_log_interval(total_steps)
        self.tokens_per_step = tokens_per_step
        self.last: dict[str, Any] = {}
        self.best_step = 0
        self.on_exclude: Callable[[float], None] | None = None  # called with the same seconds
        self._events = EventWriter(self.directory / "tensorboard")
        self._window: dict[str, list[float]] = {}  # name: [sum, number of steps]
        self._tokens = 0.0
        self._seconds = 0.0  # spent on the window before this session
        self._began = 0.0
        self._drawn_at = 0.0
        self._prepared = False
        self._offset = 0  # where the last line begins, in bytes
        self._end = 0
        self._waiting = b""  # content that follows the first `_written` bytes of the file
        self._written = 0
        self._full = self._told = False

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Drops lines beyond the step that training continues from."""
        if not self._prepared:
            self._prepare()
        self._began = self._drawn_at = time.perf_counter()

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Adds the step to the window, and writes a line if one is due."""
        for name, value in values.items():
            window = self._window.setdefault(name, [0.0, 0])
            if math.isfinite(value):  # otherwise the batch was left out of training, and so of the mean
                window[0] += value
                window[1] += 1
        if self.tokens_per_step is not None:
            tokens = self.tokens_per_step
            self._tokens += tokens(step) if callable(tokens) else tokens
        if step % self.log_interval == 0 or step == self.total_steps:
            self.flush()

    def flush(self) -> None:
        """Writes the line of the steps since the last one, if any, also when training is about to stop early."""
        step = self.step
        if not self._window:
            return
        figures = {
            name: total / steps if steps else math.nan for name, (total, steps) in self._window.items()
        }
        rate = self._rate(step)
        if rate is not None:
            figures["learning_rate"] = rate
        now = time.perf_counter()
        if self.tokens_per_step is not None:
            seconds = max(self._seconds + now - self._began, 1e-9)
            figures["tokens_per_second"] = round(self._tokens / seconds, 1)
        self._window, self._tokens, self._seconds, self._began = {}, 0.0, 0.0, now
        self.add(step, figures)
        if now - self._drawn_at > _SECONDS_BETWEEN_PICTURES:
            with suppress(OSError):  # a picture is no reason to end the training
                self._draw()
            self._drawn_at = time.perf_counter()
            self.exclude(self._drawn_at - now)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes figures of a step, on the step's own line if it has one already, otherwise on a new one.

        Args:
            step: the step, which must not be before that of the last line.
            figures: values by name, such as `validation_loss`.
        """
        if not self._prepared:
            self._prepare()
        merged = step == self.last.get("step")
        line = {**self.last, **figures} if merged else {"step": step, **figures}
        # One write replaces the whole line, so that a merged line is never missing from the file.
        content = (to_json(line) + "\n").encode()
        offset = self._offset if merged else self._end
        self._waiting = self._waiting[: max(offset - self._written, 0)] + content
        self._written = min(self._written, offset)
        self.last, self._offset, self._end = line, offset, offset + len(content)
        with self._waiting_for_room():
            self._write()
            self._full = False
            self._events.add(step, figures)
            self._told = False

    def add_text(self, step: int, name: str, text: str) -> None:
        """Writes a text that the model has generated, for TensorBoard.

        Args:
            step: the step.
            name: the name under which TensorBoard shows the texts.
            text: the text.
        """
        with self._waiting_for_room():
            self._events.add_text(step, name, text)

    def exclude(self, seconds: float) -> None:
        """Excludes time that was not spent on training, such as a validation, from the speed."""
        self._began += seconds
        if self.on_exclude is not None:
            self.on_exclude(seconds)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Writes the waiting lines, closes the files and draws curves.png."""
        self._write()
        self.close()
        self._draw()

    def close(self) -> None:
        """Closes TensorBoard's file, also after training has failed; it may be called twice."""
        self._events.close()

    def get_state(self) -> dict[str, Any]:
        """Returns the sums in progress for a checkpoint."""
        seconds = self._seconds + time.perf_counter() - self._began
        return {"window": self._window, "tokens": self._tokens, "seconds": seconds}

    def sync(self) -> None:
        """Syncs the lines to the disk before a checkpoint of these steps counts; raises `OSError` if it is full."""
        if self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self._window = {name: [float(total), int(steps)] for name, (total, steps) in state["window"].items()}
        self._tokens, self._seconds = float(state["tokens"]), float(state["seconds"])

    def _draw(self) -> None:
        name = self.directory.absolute().name
        plot_curves(read_metrics(self.path), self.directory / "curves.png", name, self.best_step)

    @contextmanager
    def _waiting_for_room(self) -> Iterator[None]:
        """Catches the error of a full disk, and tells the user once."""
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._full = bool(self._waiting)
            if not self._told:
                self._told = True
                print(f"{self.path}: the disk is full; training goes on, its lines wait", file=sys.stderr)

    def _write(self) -> None:
        if self._waiting:
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.seek(self._written)
                file.write(self._waiting)
                file.truncate()
            self._written, self._waiting = self._written + len(self._waiting), b""

    def _prepare(self) -> None:
        """Cuts the file back to the step that training continues from."""
        lines = [line for line in read_metrics(self.path) if line["step"] <= self.step]
        contents = [(to_json(line) + "\n").encode(errors="replace") for line in lines]
        text = b"".join(contents)
        if self.path.exists() and self.path.read_bytes() != text:
            write_atomically(self.path, text)
        self.last = lines[-1] if lines else {}
        self._end = self._written = len(text)
        self._offset = self._end - len(contents[-1]) if lines else 0
        if self.step:
            self._events.resume(self.step)
        self._prepared = True

    def _rate(self, step: int) -> float | None:
        optimizer = getattr(self.trainer, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        schedule = getattr(optimizer, "_learning_rate", None)
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            rate = schedule(step * self.gradient_accumulation - 1)
        elif optimizer is not None:
            rate = (
                self.model.optimizer.learning_rate
            )  # through `model`, as on JAX that copies the state into the variable
        else:
            return None
        return float(keras.ops.convert_to_numpy(rate))
