"""The directory a training run writes, and the rules about who may write it when.

One run, one directory, one process: a finished run is never overwritten, an interrupted one only continued,
and only with the settings it was started with, and two processes cannot share one (a lock that the kernel
drops when its holder dies). Nothing is created until a recipe has read all its inputs, and what was created
goes again if the recipe fails before the first step: a mistake leaves no litter.
"""

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from kerasllm import __version__
from kerasllm.errors import InputError
from kerasllm.settings import RECORDED_KEYS, plain
from kerasllm.training.atomic_files import to_json, write_atomically

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None  # type: ignore[assignment]

MAY_CHANGE = frozenset(
    {
        *("output", "resume", "keep", "log_interval", "eval_interval"),
        *("checkpoint_steps", "checkpoint_minutes", "processes"),
    }
)
"""Settings that a resumed run may be given anew: they change nothing about what is learnt."""

MAY_GROW = frozenset({"steps", "epochs"})
"""Settings that a resumed run may raise."""


class RunDirectory:
    """A directory with config.yaml, metrics.jsonl, curves.png, checkpoints/, model/ and results.json.

    Made by `RunDirectory.create`; a context manager that gives the lock back and, if the body failed before
    anything was learnt, removes what `create` made.

    Attributes:
        path: the directory.
        finished: it holds results.json: `create(…, resume=True)` of such a run, for which there is nothing to
            do.
        settings: the settings as recorded, plain values.
    """

    def __init__(self, path: Path, settings: dict[str, Any], finished: bool) -> None:
        self.path = path
        self.settings = settings
        self.finished = finished
        self._began = time.monotonic()
        self._resolved: dict[str, Any] = {}
        self._lock: int | None = None
        self._created: list[Path] = []
        self._wrote_config = False

    @property
    def checkpoints(self) -> Path:
        """Where the training state is saved; may not exist yet."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the trained model goes; may not exist yet."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """The metrics.jsonl file; may not exist yet."""
        return self.path / "metrics.jsonl"

    @property
    def resolved(self) -> dict[str, Any]:
        """What `record` has been given, in this session or before."""
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
        may_change: Iterable[str] = (),
        may_grow: Iterable[str] = MAY_GROW,
    ) -> bool:
        """Whether `create` would succeed, creating nothing: for the top of a recipe, before the slow parts.

        Args: as in `create`.

        Returns:
            True if the directory holds a finished run (and `resume` is set): there is nothing to do.

        Raises:
            InputError: see `create`.
        """
        path = Path(output)
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
                _compare(path, _recorded(path), plain(config), {*MAY_CHANGE, *may_change}, set(may_grow))
            return finished

    @classmethod
    def create(
        cls,
        output: str | Path,
        config: Any,
        *,
        resume: bool = False,
        may_change: Iterable[str] = (),
        may_grow: Iterable[str] = MAY_GROW,
    ) -> Self:
        """Creates or opens the directory, locks it and writes config.yaml. Called when all inputs are read.

        Args:
            output: the directory; parents are made too.
            config: all settings, a dataclass or a mapping.
            resume: continue the interrupted run that is there. Of a finished run the result says so
                (`finished`, nothing is written); before any checkpoint, or if nothing is there, it starts
                afresh.
            may_change: settings beside `MAY_CHANGE` that may differ from the run's own, by dotted name.
            may_grow: settings that may be greater than the run's own.

        Raises:
            InputError: the directory holds a finished run, an interrupted one without `resume`, or other
                files; the settings differ, each named; another process is writing it; it cannot be written.
        """
        path = Path(output)
        finished = cls.check(path, config, resume=resume, may_change=may_change, may_grow=may_grow)
        run = cls(path, plain(config), finished)
        with _in_words(path):
            if finished:
                run.settings = _recorded(path)
                return run
            missing = [p for p in (path, *path.parents) if not p.exists()]
            try:
                for directory in reversed(missing):
                    directory.mkdir(exist_ok=True)
                    run._created.append(directory)
                run._acquire()
                # The directory may have changed hands between the check and the lock.
                cls.check(path, config, resume=resume, may_change=may_change, may_grow=may_grow)
                run._wrote_config = not (path / "config.yaml").exists()
                if _has_checkpoint(path):  # what was found out then holds for the rest of the run
                    run._resolved = dict(_read_config(path).get("resolved") or {})
                run._write_config()
            except BaseException:
                run.discard_if_empty()
                raise
        return run

    def record(self, **resolved: Any) -> None:
        """Adds to config.yaml what was found out rather than set: the precision that `auto` came to, say."""
        self._resolved.update(plain(resolved))
        self._write_config()

    def write_results(self, results: Mapping[str, Any], seconds: float | None = None) -> None:
        """Writes results.json, which makes the run a finished one. NaN becomes null.

        Args:
            results: `{"validation": {"loss": …}, "test": {…}, …}`.
            seconds: training time of all sessions together; since `create` if None.
        """
        import keras

        figures = {**results, "seconds": round(self.seconds if seconds is None else seconds, 3)}
        figures.setdefault("backend", keras.backend.backend())
        with _in_words(self.path):
            write_atomically(self.path / "results.json", to_json(figures, indent=2) + "\n")

    def discard_if_empty(self) -> None:
        """Removes what `create` made if nothing has been learnt since, and gives the lock back."""
        learnt = any(_has_content(p) for p in (self.metrics, self.path / "results.json", self.model))
        if self._lock is not None and not learnt and not _has_checkpoint(self.path):
            if self._wrote_config:
                (self.path / "config.yaml").unlink(missing_ok=True)
                self.metrics.unlink(missing_ok=True)
            for empty in (self.checkpoints, self.model, self.path / "tensorboard"):
                with contextlib.suppress(OSError):
                    empty.rmdir()
        self.close()
        for directory in reversed(self._created):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def close(self) -> None:
        """Gives the lock back; safe to call twice."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self.path / ".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard_if_empty()

    def _acquire(self) -> None:
        lock = self.path / ".lock"
        while True:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise InputError(f"--output {self.path} is being written by another process") from error
            except OSError as error:  # a network file system without locks
                print(
                    f"{self.path} cannot be locked ({error.strerror}): run one process only", file=sys.stderr
                )
            try:
                same = os.path.samestat(os.fstat(descriptor), lock.stat())
            except FileNotFoundError:
                same = False
            if same:  # else the holder before unlinked the file that was opened here
                self._lock = descriptor
                return
            os.close(descriptor)

    def _write_config(self) -> None:
        content: dict[str, Any] = {**self.settings, "versions": _versions()}
        if self._resolved:
            content["resolved"] = self._resolved
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
        write_atomically(self.path / "config.yaml", text)


def _versions() -> dict[str, str]:
    """What a run depends on beside its settings."""
    import keras

    from kerasllm import backend

    name = keras.backend.backend()
    versions = {"python": platform.python_version(), "kerasllm": __version__, "keras": keras.__version__}
    versions |= {"backend": name, name: str(backend.version())}
    for package in ("numpy", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    versions["platform"] = platform.platform()
    return versions


def _recorded(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _read_config(path).items() if key not in RECORDED_KEYS}


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no settings")
    return content


def _compare(path: Path, before: dict, now: Any, may_change: set[str], may_grow: set[str]) -> None:
    old, new = dict(_flat(before)), dict(_flat(now))
    differences = []
    for name in dict.fromkeys([*old, *new]):
        was, given = old.get(name), new.get(name)
        if was == given or name in may_change or name.rsplit(".", 1)[-1] in may_change:
            continue
        if name in may_grow and isinstance(was, int | float) and isinstance(given, int | float):
            if given > was:
                continue
            differences.append(f"{name} {was}, which can only grow, not {given}")
        else:
            differences.append(f"{name} {was!r}, not {given!r}")
    if differences:
        raise InputError(
            f"{path} was started with {'; '.join(differences)}: give the same settings, or a new --output"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _has_checkpoint(path: Path) -> bool:
    return any((path / "checkpoints").glob("step-*"))


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What the file system refuses, as one line that names the option."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--output {path}: {error.strerror or error} ({error.filename or path})") from error
