"""Saving the full state of a run in the midst of `fit`, so that an interrupted run goes on as if nothing had
been.

Keras' own `BackupAndRestore` leaves out seed generators and random states, restarts the epoch on weights that
have already seen it, and a write that is cut off destroys the last good state. What is saved, and how it is
read again, is in `training_state`; here is when.

Training stands still only while the state is copied within memory. Hashing, writing and syncing, which take
tens of times as long, are done in a thread of their own while training goes on.
"""

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

from kerasllm import __version__
from kerasllm.errors import InputError
from kerasllm.files.atomic import sync_directory, write_atomically
from kerasllm.files.safetensors import Entry, array_entry, snapshot, write_safetensors
from kerasllm.training.callbacks.interruption import Interruption
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.state.random_states import get_random_states, set_random_states
from kerasllm.training.state.training_state import (
    RestoredState,
    checkpoint_name,
    checksum,
    list_checkpoints,
    restore,
    variable_entries,
)

__all__ = ["Checkpoint", "RestoredState", "Stateful", "restore"]

_BEST = "best"


class Stateful(Protocol):
    """What a callback needs for its state to be part of a checkpoint.

    It may also have `get_arrays() -> dict[str, np.ndarray]`, of arrays that are not written to any more, and
    `set_arrays(arrays)`; and `sync()`, called in another thread before the checkpoint counts.
    """

    def get_state(self) -> dict[str, Any]:
        """The state, as JSON can hold it."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` returned, after a way through JSON."""


class _Snapshot(NamedTuple):
    """The state after a step: all that the writing thread needs."""

    step: int
    entries: list[Entry]
    state: dict[str, Any]
    best: bool


class Checkpoint(StepCallback):
    """Saves the training state after every so many optimizer steps or minutes, and when the run is told to
    stop.

    Comes last among the callbacks: what it saves is the state after all others have seen the step. SIGTERM
    and SIGINT let the step finish, save and stop; the recipe then reads `interrupted`. A second one exits at
    once. They are left to whoever has them until a first step is done: before, there is nothing to save, and it
    may take minutes to compile. If saving fails, the disk is full say, training goes on and the last good
    checkpoint stays.

    Checkpoints are written while training goes on. One that is due by the count of steps, the best and the
    last wait until the one before is written; one that is due by the clock comes later instead. The copy that
    is written takes as much memory as weights and optimizer.

    Args:
        directory: `RunDirectory.checkpoints`; made when needed.
        steps: optimizer steps between checkpoints; None for no such rule.
        minutes: minutes between checkpoints; None for no such rule.
        keep: how many of the newest stay, beside that marked by `mark_best`.
        total_steps: the last step, which is always saved; so is one at which another callback stops training.
        callbacks: those with `get_state`. Their states are saved by class name; the second of one class is
            `Name-2`.
        gradient_accumulation: batches an optimizer step takes.
        restored: what `restore` returned: its step, its callbacks' states and its random states are put in
            place.

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
        """The exit code if a signal has stopped the run."""
        return self._interruption.exit_code

    @property
    def seconds(self) -> float:
        """Training time of all sessions, in seconds."""
        return self._earlier_seconds + time.monotonic() - self._began

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """The time begins."""
        self._began = self._saved_at = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Restores the random states: only now, as on torch `fit` itself has drawn from them."""
        if self._random_states is not None:
            set_random_states(self._random_states)
            self._random_states = None

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        """Saves if it is time, or the last chance; listens for signals from the first one on."""
        self._interruption.listen()
        stopping = self.interrupted is not None
        due = self._best_next or (bool(self.steps) and step % self.steps == 0)  # type: ignore[operator]
        idle = self._writing is None or self._writing.done()
        if idle and self.minutes and time.monotonic() - self._saved_at >= self.minutes * 60:
            due = True
        last = stopping or step == self.total_steps or self.trainer.stop_training
        if (due or last) and not self._forbidden:
            saved = self.save(wait=last)
            if stopping:
                state = f"saved step {step}" if saved else f"step {step} is not saved"
                print(f"stopped: {state}, --resume goes on from there", file=sys.stderr)
        if stopping:
            self.trainer.stop_training = True

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Waits for what is being written, and gives the signals back to whoever had them."""
        self.close()

    def close(self) -> None:
        """As at the end of training, for a recipe whose training failed; safe to call twice."""
        self.wait()
        self._interruption.restore()

    def wait(self) -> bool:
        """Waits until what is being saved is on the disk, and says whether it is."""
        return self._writing is None or self._writing.result()

    def forbid(self) -> None:
        """Nothing is saved from here on: what there is to save has gone wrong. For callbacks before this."""
        self._forbidden = True

    def mark_best(self) -> None:
        """The step that is ending is saved, and kept until another is marked. For callbacks before this."""
        self._best_next = True

    def mark_restored_best(self) -> None:
        """As `mark_best`, for the step that training goes on from: its validation is made only now."""
        write_atomically(self.directory / _BEST, checkpoint_name(self.step) + "\n")

    def prune(self) -> None:
        """Removes old checkpoints that a run has left which was killed while it removed them."""
        self._prune(self.step)

    def save(self, *, wait: bool = True) -> bool:
        """Saves the state after the current step, if that is not done yet.

        Args:
            wait: until it is written; otherwise it is copied, and written in the background.

        Returns:
            Whether the state is on the disk, or on its way there. Where it does not arrive, a line on standard
            error says why.
        """
        began = time.monotonic()
        written = self.wait()  # one at a time: the copies' memory is used again
        if self._saved_step == self.step and written:
            return True
        self._saved_step, self._saved_at = self.step, began
        self._writing = self._thread.submit(self._write, self._snapshot())
        saved = self.wait() if wait else True
        stalled = time.monotonic() - began
        self.stalled += stalled
        for callback in self.callbacks.values():
            if hasattr(callback, "exclude"):  # no part of the speed of training
                callback.exclude(stalled)
        return saved

    def _snapshot(self) -> _Snapshot:
        model = self.model  # on JAX this brings the state of this very step into the variables
        entries = snapshot(variable_entries(model), self._buffers)
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
        return _Snapshot(self.step, entries, state, best)

    def _write(self, snapshot: _Snapshot) -> bool:
        """Whether it is on the disk; runs in the writing thread."""
        place = self.directory / checkpoint_name(snapshot.step)
        temporary = self.directory / f".{place.name}.tmp"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self.directory.glob(".step-*.tmp"):
                shutil.rmtree(leftover)
            temporary.mkdir()
            digest = write_safetensors(temporary / "state.safetensors", snapshot.entries)
            state = {**snapshot.state, "sha256": digest}
            state["checksum"] = checksum(state)
            write_atomically(temporary / "state.json", json.dumps(state) + "\n")
            for callback in self.callbacks.values():
                if hasattr(callback, "sync"):
                    callback.sync()
            if place.exists():  # a broken one that `restore` has passed over
                shutil.rmtree(place)
            temporary.replace(place)
            sync_directory(self.directory)
            if snapshot.best:
                write_atomically(self.directory / _BEST, place.name + "\n")
            self._prune(snapshot.step)
        except (OSError, InputError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = getattr(error, "strerror", None) or error
            print(
                f"checkpoint of step {snapshot.step} not saved ({reason}); training goes on", file=sys.stderr
            )
            return False
        return True

    def _prune(self, newest: int) -> None:
        best = self.directory / _BEST
        marked = best.read_text(errors="replace").strip() if best.exists() else ""
        kept = 0
        for step, path in list_checkpoints(self.directory):
            # What lies beyond this step was passed over as damaged when the run was resumed.
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
                    f"{restored.path}: the state of {name} is not such as it writes ({error!r})"
                ) from error


def _names(callbacks: Sequence[Stateful]) -> list[str]:
    """Returns the class names of callbacks, numbered from the second of one class on."""
    names: list[str] = []
    counts: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return names
