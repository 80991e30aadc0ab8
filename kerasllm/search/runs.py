"""Starts training runs in processes of their own, several at once, and follows them.

A run needs a process to itself, since signal handlers, the dtype policy and the memory of a device belong to a process.
Figures come from the run's metrics.jsonl, so any recipe can be run as it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from kerasllm.files.json import read_json
from kerasllm.files.locks import FileLock
from kerasllm.training.callbacks.interruption import Interruption
from kerasllm.training.callbacks.metrics_log import read_metrics

STOPPED = {130: 130, 143: 143, -signal.SIGINT: 130, -signal.SIGTERM: 143}
"""The exit codes of a run that was told to stop, after its first step or before, as the search's own."""

_SECONDS_BETWEEN_LOOKS = 0.2
_PREFIX = "validation_"
_REASONS = {3: "the numbers went wrong", -signal.SIGKILL: "killed, perhaps for lack of memory"}


class TrainingRun:
    """A training run: a run directory, the process that writes it, and what that process prints.

    What is printed goes to a file beside the directory, with ".log" for its ending.

    Args:
        recipe: the file of the recipe.
        arguments: its arguments, without `--output` and `--resume`.
        directory: the run directory. A run that was cut goes on from its newest checkpoint.

    Attributes:
        directory: the run directory.
        log: the file with what the process has printed.
        ended_here: whether `stop` was called.
    """

    def __init__(self, recipe: Path, arguments: Sequence[str], directory: Path) -> None:
        self.directory = directory
        self.log = directory.with_name(f"{directory.name}.log")
        self.ended_here = False
        self._command = [sys.executable, str(Path(__file__).with_name("trial.py")), str(recipe), *arguments]
        self._process: subprocess.Popen | None = None
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the process was started, in seconds."""
        return time.monotonic() - self._began

    def start(self, alone: bool = True) -> None:
        """Starts the process, as soon as no earlier one writes the directory.

        Args:
            alone: whether it may take all of a device's memory, as JAX and TensorFlow do unless they are told not to.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        if self.directory.exists():  # the process of a search that was killed may still be saving
            FileLock(self.directory / ".lock").release()
        shared = (
            {} if alone else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--output", str(self.directory), "--resume"],
                stdin=subprocess.PIPE,  # which the process watches, to stop when this one is gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**shared, **os.environ},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the runs
            )
        self._began = time.monotonic()

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while the process runs."""
        assert self._process is not None
        return self._process.poll()

    def stop(self) -> None:
        """Tells the process to save and stop; only the first call does anything."""
        assert self._process is not None
        if not self.ended_here:
            self.ended_here = True
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Waits until the process has ended and releases what it held."""
        assert self._process is not None and self._process.stdin is not None
        self._process.wait()
        self._process.stdin.close()

    def validations(self, figure: str) -> Iterator[tuple[int, float]]:
        """Yields a figure of each validation so far, with the number of the validation, counted from 1.

        Args:
            figure: the figure's name without prefix. A figure that is not finite is left out, but counted.
        """
        lines = [line for line in read_metrics(self.directory / "metrics.jsonl") if _PREFIX + "loss" in line]
        for number, line in enumerate(lines, 1):
            value = line.get(_PREFIX + figure)
            if isinstance(value, int | float):
                yield number, float(value)

    def results(self) -> dict[str, Any]:
        """Returns the content of results.json.

        Raises:
            InputError: the file cannot be read.
        """
        return read_json(self.directory / "results.json")

    def reason(self, code: int) -> str:
        """Returns why the run failed: the meaning of its exit code and the last line that it printed.

        Args:
            code: the exit code.
        """
        lines = (
            self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        )
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")
        if code == 2:
            return last.removeprefix("error: ")
        return f"{_REASONS.get(code, f'exit code {code}')}: {last}"


class Plan(Protocol):
    """What a search wants to run, and what it does with the outcome."""

    def next_run(self) -> TrainingRun | None:
        """Returns the next run, not started, or None if there is none now."""

    def look(self, run: TrainingRun) -> None:
        """Looks at a run that goes on, and may stop it."""

    def end(self, run: TrainingRun, code: int) -> None:
        """Takes note of a run that has ended by itself or by `look`, with its exit code."""


def carry_out(plan: Plan, workers: int) -> int | None:
    """Carries out all runs of a plan.

    Args:
        plan: the runs.
        workers: how many run at once.

    Returns:
        None, or the exit code of a search that was told to stop: by a signal to this process, or by one to a run. All
        runs have saved their state then.
    """
    interruption = Interruption()
    interruption.listen()
    running: list[TrainingRun] = []
    stopped: int | None = None
    try:
        while True:
            stopped = stopped or interruption.exit_code
            while stopped is None and len(running) < workers and (run := plan.next_run()) is not None:
                run.start(alone=workers == 1)
                running.append(run)
            if not running:
                return stopped
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for run in list(running):
                code = run.poll()
                if stopped is not None:
                    run.stop()
                if code is None:
                    if stopped is None:
                        plan.look(run)
                    continue
                running.remove(run)
                run.wait()
                if code not in STOPPED or (stopped is None and run.ended_here):
                    plan.end(run, code)
                elif stopped is None:  # somebody has told this run to stop, and means the search
                    stopped = STOPPED[code]
    finally:
        for run in running:  # after an error in this process
            run.stop()
        for run in running:
            run.wait()
        interruption.restore()
