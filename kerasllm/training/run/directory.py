"""Manages the directory that a training run writes, and who may write it when.

A run has one directory, which one process writes: of several the first, while the others only read checkpoints. A
finished run is never overwritten; an interrupted one can only be continued, with the settings that it was started with;
and a lock, which the kernel releases when its holder dies, keeps two processes from sharing one. Nothing is created
until a recipe has read all its inputs, and what was created is removed if the recipe fails before the first step.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from kerasllm import processes
from kerasllm.errors import DISK_FULL, InputError
from kerasllm.files.atomic import write_atomically
from kerasllm.files.json import plain, to_json
from kerasllm.files.locks import FileLock
from kerasllm.training.run import together
from kerasllm.training.run.card import write_run_card
from kerasllm.training.run.settings import (
    MAY_GROW,
    compare,
    lasting,
    read_config,
    recorded,
    versions,
)


class RunDirectory:
    """A directory with config.yaml, metrics.jsonl, curves.png, checkpoints/, model/ and results.json.

    Create one by `RunDirectory.create`. It is a context manager that releases the lock and, if its body failed before
    anything was learned, removes what `create` made. A full disk raises an `InputError`.

    Attributes:
        path: the directory.
        finished: whether it already held results.json, so that there is nothing to do; only with `resume=True`.
        settings: the recorded settings, as plain values.
    """

    def __init__(self, path: Path, settings: dict[str, Any], finished: bool) -> None:
        self.path = path
        self.settings = settings
        self.finished = finished
        self._began = time.monotonic()
        self._resolved: dict[str, Any] = {}
        self._lock: FileLock | None = None
        self._created: list[Path] = []
        self._wrote_config = False

    @property
    def checkpoints(self) -> Path:
        """The directory of the training state, which may not exist yet."""
        return self.path / "checkpoints"

    @property
    def bad_batch(self) -> Path:
        """The directory of a batch that stopped the run, which may not exist."""
        return self.path / "bad_batch"

    @property
    def model(self) -> Path:
        """The directory of the trained model, which may not exist yet."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """The metrics.jsonl file, which may not exist yet."""
        return self.path / "metrics.jsonl"

    @property
    def resolved(self) -> dict[str, Any]:
        """The values that `record` was given, in this session or before."""
        return dict(self._resolved)

    @property
    def seconds(self) -> float:
        """Wall time since `create`, in seconds."""
        return time.monotonic() - self._began

    @classmethod
    def check(
        cls,
        output: str | Path,
        config: Any,
        *,
        resume: bool = False,
        may_grow: Iterable[str] = MAY_GROW,
    ) -> bool:
        """Checks that `create` would succeed, creating nothing; recipes call it first, before the slow parts.

        Args: as in `create`.

        Returns:
            True if the directory holds a finished run and `resume` is set, so that there is nothing to do.

        Raises:
            InputError: see `create`.
        """
        return together.of_first(lambda: cls._check(output, config, resume, may_grow))

    @classmethod
    def _check(cls, output: str | Path, config: Any, resume: bool, may_grow: Iterable[str]) -> bool:
        path = Path(output)
        if not str(output).strip():
            raise InputError("--output is empty; give a directory")
        with _in_words(path):
            if path.is_symlink() and not path.exists():
                raise InputError(f"--output {path} is a link to {path.readlink()}, which does not exist")
            if path.exists() and not path.is_dir():
                raise InputError(f"--output {path} is a file; give a directory")
            existing = path if path.exists() else next(p for p in path.absolute().parents if p.exists())
            if not existing.is_dir():
                raise InputError(f"--output {path}: {existing} is a file, not a directory")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise InputError(f"--output {path}: no permission to write in {existing}")
            if not path.exists() or all(entry.name == ".lock" for entry in path.iterdir()):
                return False
            if not (path / "config.yaml").is_file():
                raise InputError(f"--output {path} is not empty and holds no run; give a new directory")
            finished = (path / "results.json").exists()
            if finished and not resume:
                raise InputError(f"--output {path} holds a finished run; give a new directory")
            if not resume:
                raise InputError(
                    f"--output {path} holds an interrupted run; add --resume, or give a new directory"
                )
            if not finished and _has_checkpoint(path):
                compare(path, recorded(path), config, set(may_grow))
            if finished:  # a run that was killed as it ended may have left its lock
                with contextlib.suppress(OSError):
                    (path / ".lock").unlink(missing_ok=True)
            return finished

    @classmethod
    def create(
        cls,
        output: str | Path,
        config: Any,
        *,
        resume: bool = False,
        may_grow: Iterable[str] = MAY_GROW,
    ) -> Self:
        """Creates or opens the directory, locks it and writes config.yaml; called when all inputs are read.

        Args:
            output: the directory; parents are created too.
            config: all settings, a dataclass or a mapping.
            resume: whether to continue the interrupted run in the directory. For a finished run nothing is written
                and `finished` is set; without a checkpoint, or in an empty directory, the run starts from scratch.
            may_grow: settings that may be greater than the run's own.

        Raises:
            InputError: the directory holds a finished run, other files, or an interrupted run without `resume`; the
                settings differ (the message names each); another process is writing it; or it cannot be written.
        """
        made: list[Self] = []

        def create() -> dict[str, Any]:
            made.append(cls._create(output, config, resume, may_grow))
            return {name: plain(getattr(made[0], name)) for name in ("finished", "settings", "resolved")}

        told = together.of_first(create)
        if made:
            return made[0]
        run = cls(Path(output), told["settings"], told["finished"])
        run._resolved = told["resolved"]
        return run

    @classmethod
    def _create(cls, output: str | Path, config: Any, resume: bool, may_grow: Iterable[str]) -> Self:
        path = Path(output)
        finished = cls._check(path, config, resume, may_grow)
        run = cls(path, lasting(plain(config)), finished)
        with _in_words(path):
            if finished:
                run.settings = recorded(path)
                return run
            missing = [p for p in (path, *path.parents) if not p.exists()]
            try:
                for directory in reversed(missing):
                    directory.mkdir(exist_ok=True)
                    run._created.append(directory)
                run._acquire()
                # The directory may have changed hands between the check and the lock.
                cls._check(path, config, resume, may_grow)
                best = run.checkpoints.glob(".best.*.tmp")
                for leftover in (*path.glob(".*.tmp"), *run.model.glob(".*.tmp"), *best):
                    leftover.unlink(missing_ok=True)  # left by a process that was killed while writing
                run._wrote_config = not (path / "config.yaml").exists()
                if _has_checkpoint(path):  # its recorded values hold for the rest of the run
                    run._resolved = dict(read_config(path).get("resolved") or {})
                run._write_config()
            except BaseException:
                run.discard_if_empty()
                raise
        return run

    def record(self, **resolved: Any) -> None:
        """Adds values to config.yaml that were found out rather than set, such as the precision that `auto` chose.

        Raises:
            InputError: the resumed run has other data than before: a value named `…_sha256` has changed.
        """
        found = plain(resolved)
        for name, value in found.items():
            before = str(self._resolved.get(name, value))
            if name.endswith("_sha256"):
                together.check_equal(name, value)
            if name.endswith("_sha256") and before != value:
                raise InputError(
                    f"{self.path} was started with other data ({name} {before[:16]}, now {value[:16]}): "
                    "give the same files, or a new --output"
                )
        self._resolved.update(found)
        self._write_config()

    def settle(self, **settings: Any) -> None:
        """Replaces settings in config.yaml that asked for a choice by what was chosen, with which a repeat begins."""
        self.settings |= plain(settings)
        self._write_config()

    def write_results(self, results: Mapping[str, Any], seconds: float | None = None) -> None:
        """Writes the model card and results.json, which marks the run as finished; NaN becomes null.

        Args:
            results: the figures, such as `{"validation": {"loss": …}, "test": {…}, …}`.
            seconds: training time of all sessions together; the time since `create` if None.
        """
        import keras

        if not processes.is_first():
            return
        figures = {**results, "seconds": round(self.seconds if seconds is None else seconds, 3)}
        figures.setdefault("backend", keras.backend.backend())
        with _in_words(self.path):
            if (self.model / "config.json").exists():
                write_run_card(self.path, plain(figures))
            write_atomically(self.path / "results.json", to_json(figures, indent=2) + "\n")

    def discard_if_empty(self, *, keep_log: bool = True) -> None:
        """Removes what `create` made if nothing has been learned since, and releases the lock.

        Args:
            keep_log: whether a log of steps is kept even if there is no checkpoint to continue from.
        """
        results = self.path / "results.json"
        if not keep_log and self._wrote_config and not results.exists() and not _has_checkpoint(self.path):
            for directory in (self.model, self.path / "tensorboard"):
                shutil.rmtree(directory, ignore_errors=True)
            for file in (self.metrics, self.path / "curves.png"):
                file.unlink(missing_ok=True)
        learnt = any(_has_content(p) for p in (self.metrics, results, self.model))
        if self._lock is not None and not learnt and not _has_checkpoint(self.path):
            if self._wrote_config:
                (self.path / "config.yaml").unlink(missing_ok=True)
                self.metrics.unlink(missing_ok=True)
            events = self.path / "tensorboard"
            for empty in (self.checkpoints, self.model, *events.glob("*"), events):
                with contextlib.suppress(OSError):
                    empty.rmdir()
        self.close()
        for directory in reversed(self._created):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def close(self) -> None:
        """Releases the lock; it may be called twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        # The log of a failed run is worth keeping; after a user's mistake nothing stays behind.
        self.discard_if_empty(keep_log=not full and not isinstance(error, InputError))
        if full:
            later = " and --resume" if _has_checkpoint(self.path) else ""
            raise InputError(
                f"{self.path}: the disk is full; free some space{later}, or choose another --output"
            ) from error

    def _acquire(self) -> None:
        try:
            self._lock = FileLock(self.path / ".lock", wait=False)
        except BlockingIOError as error:
            raise InputError(f"--output {self.path} is being written by another process") from error
        if self._lock.error is not None:  # such as a network file system without locks
            reason = self._lock.error.strerror
            print(f"{self.path} cannot be locked ({reason}): run one process only", file=sys.stderr)

    def _write_config(self) -> None:
        if not processes.is_first():
            return
        content: dict[str, Any] = {**self.settings, "versions": versions()}
        if self._resolved:
            content["resolved"] = self._resolved
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
        write_atomically(self.path / "config.yaml", text)


def _has_checkpoint(path: Path) -> bool:
    return any((path / "checkpoints").glob("step-*"))


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Turns an `OSError` into an `InputError` of one line that names the option."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--output {path}: {error.strerror or error} ({error.filename or path})") from error
