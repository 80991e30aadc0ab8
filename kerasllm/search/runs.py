"""Starts training runs in processes of their own, several at once, and follows them.

A run needs a process to itself, since signal handlers, the dtype policy and the memory of a device belong to a process.
Each run tells of its validations through a socket (`kerasllm.training.run.listener`), and waits for an answer.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kerasllm.files.json import read_json
from kerasllm.files.locks import FileLock
from kerasllm.training.callbacks.interruption import Interruption
from kerasllm.training.run.listener import GO_ON, SOCKET, STOP

STOPPED = {130: 130, 143: 143, -signal.SIGINT: 130, -signal.SIGTERM: 143}
"""The exit codes of a run that was told to stop, after its first step or before, as the search's own."""

_SECONDS_BETWEEN_LOOKS = 0.2
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
        line: the socket through which the process tells of validations; None before it is started and after it is gone.
        ended_here: whether `stop` was called, or an answer was to stop.
    """

    def __init__(self, recipe: Path, arguments: Sequence[str], directory: Path) -> None:
        self.directory = directory
        self.log = directory.with_name(f"{directory.name}.log")
        self.ended_here = False
        self._command = [sys.executable, str(Path(__file__).with_name("trial.py")), str(recipe), *arguments]
        self._process: subprocess.Popen | None = None
        self.line: socket.socket | None = None
        self._received = b""
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
        self.line, theirs = socket.socketpair()
        with self.log.open("ab") as log, theirs:
            self._process = subprocess.Popen(
                [*self._command, "--output", str(self.directory), "--resume"],
                stdin=subprocess.PIPE,  # which the process watches, to stop when this one is gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**shared, **os.environ, SOCKET: f"{theirs.fileno()} {os.getpid()}"},
                pass_fds=[theirs.fileno()],
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
        self._hang_up()  # so that it waits for no answer

    def answer(self, *, stop: bool) -> None:
        """Lets a process that has told of a validation go on, or tells it to save and stop."""
        self.ended_here |= stop
        if self.line is not None:
            try:
                self.line.sendall(STOP if stop else GO_ON)
            except OSError:  # it has been killed
                self._hang_up()

    def wait(self) -> None:
        """Waits until the process has ended and releases what it held."""
        assert self._process is not None and self._process.stdin is not None
        self._process.wait()
        self._process.stdin.close()
        self._hang_up()

    def validation(self) -> tuple[int, Mapping[str, Any]] | None:
        """Returns the number of a validation, from 1, and its figures, if the process waits for an answer to it."""
        if self.line is None or not select.select([self.line], [], [], 0)[0]:
            return None
        try:
            received = self.line.recv(2**16)
        except OSError:  # it has been killed
            received = b""
        if not received:
            self._hang_up()
            return None
        self._received += received
        if not self._received.endswith(b"\n"):
            return None
        told, self._received = json.loads(self._received), b""
        return told["number"], told["figures"]

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

    def _hang_up(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None


class Plan(Protocol):
    """What a search wants to run, and what it does with the outcome."""

    def next_run(self) -> TrainingRun | None:
        """Returns the next run, not started, or None if there is none now."""

    def look(self, run: TrainingRun, number: int, figures: Mapping[str, Any]) -> bool:
        """Takes note of a run's validation, and returns whether the run is to be stopped."""

    def end(self, run: TrainingRun, code: int) -> None:
        """Takes note of a run that has ended by itself or by `look`, with its exit code."""


def _wait_for_news(running: Sequence[TrainingRun]) -> None:
    """Waits until a run tells of a validation or ends, or for a moment."""
    select.select([run.line for run in running if run.line is not None], [], [], _SECONDS_BETWEEN_LOOKS)


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
            _wait_for_news(running)
            for run in list(running):
                code = run.poll()
                if stopped is not None:
                    run.stop()
                elif (told := run.validation()) is not None:
                    run.answer(stop=plan.look(run, *told))
                if code is None:
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
