"""Saves the full state of a run during `fit`, so that an interrupted run continues as if nothing had happened.

Keras' own `BackupAndRestore` leaves out seed generators and random states, restarts the epoch with weights that
have already seen it, and loses the last good state if a write is cut off. This file decides when the state is
saved; `training_state` decides what is saved and how it is read again.

Training stands still only while the state is copied in memory. Hashing, writing and syncing, which take dozens of
times as long, run in a thread of their own while training goes on.
"""

import contextlib
import copy
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np

from kerasllm import __version__, processes
from kerasllm.errors import InputError
from kerasllm.files.atomic import sync_directory, write_atomically
from kerasllm.files.safetensors import Entry, array_entry, snapshot, write_safetensors
from kerasllm.training.callbacks.interruption import Interruption
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.run.together import Agreement, all_agree, of_first
from kerasllm.training.state.parts import checksum, part_name, wait_for_parts, write_part
from kerasllm.training.state.random_states import get_random_states, set_random_states
from kerasllm.training.state.training_state import (
    RestoredState,
    checkpoint_name,
    divided_entries,
    list_checkpoints,
    restore,
)

__all__ = ["Checkpoint", "RestoredState", "Stateful", "restore"]

_BEST = "best"


class Stateful(Protocol):
    """The methods of a callback whose state is part of a checkpoint.

    It may also have `get_arrays() -> dict[str, np.ndarray]`, which returns arrays that are no longer written to, and
    `set_arrays(arrays)`; and `sync()`, which is called in another thread before the checkpoint counts.
    """

    def get_state(self) -> dict[str, Any]:
        """Returns the state in a form that JSON can hold."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned, after it went through JSON."""


class _Snapshot(NamedTuple):
    """The state after a step, with everything that the writing thread needs."""

    step: int
    entries: list[Entry]
    state: dict[str, Any]
    best: bool
    part: "_Part | None"


class _Part(NamedTuple):
    """What this process alone holds of the state after a step."""

    step: int
    entries: list[Entry]
    places: list[dict[str, Any]]


class Checkpoint(StepCallback):
    """A callback that saves the training state at intervals of optimizer steps or minutes, and when told to stop.

    Place it last among the callbacks: it saves the state after all others have seen the step. On SIGTERM or SIGINT
    it lets the step finish, saves and stops; the recipe then reads `interrupted`. A second signal exits at once. It
    handles signals only after the first step, since before that there is nothing to save and compilation may take
    minutes. If saving fails, for example on a full disk, training goes on and the last good checkpoint stays.

    Checkpoints are written while training goes on. One that is due by its step, the best one and the last one wait
    until the previous one is written; one that is due by the clock is delayed instead. The copy that is written
    takes as much memory as the weights and the optimizer.

    Args:
        directory: `RunDirectory.checkpoints`; created when needed.
        steps: optimizer steps between checkpoints; None to ignore steps.
        minutes: minutes between checkpoints; None to ignore time.
        keep: number of newest checkpoints to keep, beside the one marked by `mark_best`.
        total_steps: the last step, which is always saved, as is a step at which another callback stops training.
        callbacks: callbacks with `get_state`. Their states are saved by class name; the second of a class is
            `Name-2`.
        gradient_accumulation: batches per optimizer step.
        restored: the result of `restore`, from which the step, the callbacks' states and the random states are
            taken.

    Attributes:
        interrupted: None, or the exit code of a run that was told to stop: 130 for SIGINT, 143 for SIGTERM.
        seconds: training time so far, over all sessions.
        stalled: seconds of this session in which training stood still for saving.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        steps: int | None = None,
        minutes: float | None = None,
        keep: int = 2,
        total_steps: int | None = None,
        callbacks: Sequence[Stateful] = (),
        gradient_accumulation: int = 1,
        restored: RestoredState | None = None,
    ) -> None:
        super().__init__(
            gradient_accumulation=gradient_accumulation, start_step=restored.step if restored else 0
        )
        if keep < 1:
            raise ValueError(f"keep is {keep}, it must be at least 1")
        self.directory = Path(directory)
        self.steps = steps
        self.minutes = minutes
        self.keep = keep
        self.total_steps = total_steps
        self.callbacks = dict(zip(_names(callbacks), callbacks, strict=True))
        self._interruption = Interruption()
        self._agree = Agreement()
        self.stalled = 0.0
        self._best_next = False
        self._forbidden = False
        self._buffers: dict[str, np.ndarray] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kerasllm-checkpoint")
        self._writing: Future[bool] | None = None
        self._random_states = restored.random_states if restored else None
        self._earlier_seconds = restored.seconds if restored else 0.0
        self._began = self._saved_at = time.monotonic()
        self._saved_step = self.step if restored else -1
        if restored:
            self._hand_out(restored)

    @property
    def interrupted(self) -> int | None:
        """The exit code if a signal has stopped the run, or None."""
        return self._interruption.exit_code

    @property
    def seconds(self) -> float:
        """Training time of all sessions, in seconds."""
        return self._earlier_seconds + time.monotonic() - self._began

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Starts the clock."""
        self._began = self._saved_at = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Restores the random states, only now because on PyTorch `fit` itself has drawn from them."""
        if self._random_states is not None:
            set_random_states(self._random_states)
            self._random_states = None

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Saves if a checkpoint is due or the run ends here; handles signals from the first step on."""
        self._interruption.listen()
        idle = self._writing is None or self._writing.done()
        by_clock = idle and bool(self.minutes) and time.monotonic() - self._saved_at >= self.minutes * 60  # type: ignore[operator]
        self._interruption.exit_code, by_clock = self._agree(step, self._interruption.asked, by_clock)
        stopping = self.interrupted is not None
        due = by_clock or self._best_next or (bool(self.steps) and step % self.steps == 0)  # type: ignore[operator]
        last = stopping or step == self.total_steps or self.trainer.stop_training
        if (due or last) and not self._forbidden:
            saved = self.save(wait=last)
            if stopping:
                state = f"saved step {step}" if saved else f"step {step} is not saved"
                print(f"stopped: {state}, --resume goes on from there", file=sys.stderr)
        if stopping:
            self.trainer.stop_training = True

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Waits until the checkpoint is written, and restores the previous signal handlers."""
        self.close()

    def close(self) -> None:
        """Does the same as `on_train_end`, also after training has failed; it may be called twice."""
        self.wait()
        self._interruption.restore()

    def wait(self) -> bool:
        """Waits until the current checkpoint is written and returns whether it is on the disk."""
        return self._writing is None or self._writing.result()

    def forbid(self) -> None:
        """Stops all saving because the state has gone wrong; for callbacks placed before this one."""
        self._forbidden = True

    def mark_best(self) -> None:
        """Saves the current step and keeps it until another is marked; for callbacks placed before this one."""
        self._best_next = True

    def mark_restored_best(self) -> None:
        """Marks the step that training resumes from as the best, if its validation is made only now."""
        if processes.is_first():
            write_atomically(self.directory / _BEST, checkpoint_name(self.step) + "\n")

    def prune(self) -> None:
        """Removes old checkpoints that are left because the run was killed while it removed them."""
        if processes.is_first():
            self._prune(self.step)

    def save(self, *, wait: bool = True) -> bool:
        """Saves the state after the current step, unless that is done already.

        Of several processes all call it; the first one writes what they have in common, and each what it holds alone.

        Args:
            wait: whether to wait until it is written; otherwise it is copied, and written in the background.

        Returns:
            Whether the state is on the disk, or being written there. If writing fails, a line on standard error
            says why.
        """
        began = time.monotonic()
        written = self.wait()  # one at a time, since the memory of the copies is reused
        if all_agree(self._saved_step == self.step and written):
            return True
        self._saved_step, self._saved_at = self.step, began
        model = self.model  # on JAX, reading it copies this step's state into the variables
        entries, parts = divided_entries(model)
        if parts is not None and not of_first(lambda: self._make_directory(self.step)):
            return False
        part = None
        if parts is not None:
            own = snapshot([entry for entry, _ in parts], self._buffers)
            part = _Part(self.step, own, [place for _, place in parts])
        if processes.is_first():
            self._writing = self._thread.submit(self._write, self._snapshot(entries, part))
        else:
            self._best_next = False
            for entry in entries:  # gathered with the first process
                entry.fetch()
            self._writing = None if part is None else self._thread.submit(self._write_part, part)
        saved = self.wait() if wait else True
        stalled = time.monotonic() - began
        self.stalled += stalled
        for callback in self.callbacks.values():
            if hasattr(callback, "exclude"):  # saving does not count as training
                callback.exclude(stalled)
        return saved

    def _snapshot(self, entries: list[Entry], part: _Part | None) -> _Snapshot:
        entries = snapshot(entries, self._buffers)
        states = {}
        for name, callback in self.callbacks.items():
            states[name] = copy.deepcopy(callback.get_state())
            if hasattr(callback, "get_arrays"):
                for key, array in callback.get_arrays().items():
                    entries.append(array_entry(f"callback/{name}/{key}", array))
        state = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "callbacks": states,
            "random_states": get_random_states(),
            "versions": {
                "kerasllm": __version__,
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
            },
        }
        best, self._best_next = self._best_next, False
        return _Snapshot(self.step, entries, state, best, part)

    def _temporary(self, step: int) -> Path:
        return self.directory / f".{checkpoint_name(step)}.tmp"

    def _make_directory(self, step: int) -> bool:
        """Makes the directory that a checkpoint is written in, and returns whether that is possible."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self.directory.glob(".step-*.tmp"):
                shutil.rmtree(leftover)
            self._temporary(step).mkdir()
        except OSError as error:
            self._say_not_saved(step, error)
            return False
        return True

    def _say_not_saved(self, step: int, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        print(f"checkpoint of step {step} not saved ({reason}); training goes on", file=sys.stderr)

    def _write_part(self, part: _Part) -> bool:
        """Writes what this process alone holds, in the writing thread, and returns whether it is on the disk."""
        directory, number = self._temporary(part.step), processes.place()[0]
        try:
            write_part(directory, number, part.entries, part.places)
        except (OSError, InputError):
            with contextlib.suppress(OSError):
                (
                    directory / f"{part_name(number)}.failed"
                ).touch()  # so that the first process waits no longer
            return False
        return True

    def _write(self, snapshot: _Snapshot) -> bool:
        """Writes the state, in the writing thread, and returns whether it is on the disk."""
        place, temporary = self.directory / checkpoint_name(snapshot.step), self._temporary(snapshot.step)
        if snapshot.part is None and not self._make_directory(snapshot.step):
            return False
        try:
            digest = write_safetensors(temporary / "state.safetensors", snapshot.entries)
            state = {**snapshot.state, "sha256": digest}
            if snapshot.part is not None:
                write_part(temporary, 0, snapshot.part.entries, snapshot.part.places)
                state["parts"] = wait_for_parts(temporary, processes.place()[1])
            state["checksum"] = checksum(state)
            write_atomically(temporary / "state.json", json.dumps(state) + "\n")
            for callback in self.callbacks.values():
                if hasattr(callback, "sync"):
                    callback.sync()
            if place.exists():  # a damaged one that `restore` has skipped
                shutil.rmtree(place)
            temporary.replace(place)
            sync_directory(self.directory)
            if snapshot.best:
                write_atomically(self.directory / _BEST, place.name + "\n")
            self._prune(snapshot.step)
        except (OSError, InputError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._say_not_saved(snapshot.step, error)
            return False
        return True

    def _prune(self, newest: int) -> None:
        best = self.directory / _BEST
        marked = best.read_text(errors="replace").strip() if best.exists() else ""
        kept = 0
        for step, path in list_checkpoints(self.directory):
            # Later checkpoints were skipped as damaged when the run was resumed.
            if step <= newest and (kept < self.keep or path.name == marked):
                kept += 1
            else:
                shutil.rmtree(path)

    def _hand_out(self, restored: RestoredState) -> None:
        for name, callback in self.callbacks.items():
            if name not in restored.callbacks:
                print(f"{restored.path} holds no state of {name}: it starts afresh", file=sys.stderr)
                continue
            prefix = f"callback/{name}/"
            arrays = {k.removeprefix(prefix): v for k, v in restored.arrays.items() if k.startswith(prefix)}
            try:
                callback.set_state(restored.callbacks[name])
                if hasattr(callback, "set_arrays"):
                    callback.set_arrays(arrays)
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                raise InputError(
                    f"{restored.path}: the state of {name} is not in the form that it writes ({error!r})"
                ) from error


def _names(callbacks: Sequence[Stateful]) -> list[str]:
    """Returns the class names of the callbacks, with a number from the second of a class on."""
    names: list[str] = []
    counts: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return names
