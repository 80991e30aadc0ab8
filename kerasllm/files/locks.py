"""A lock on a file, which one process at a time can hold.

The operating system releases the lock when the process dies, however it dies, so that no process number or time
stamp has to be trusted.
"""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows has no fcntl
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """A lock that is held on a file, which is created for it and removed when the lock is released.

    Some network file systems, and Windows, have no such locks. The file is then created but not locked, and `is_held`
    is False.

    Args:
        path: the file; its directory must exist.
        wait: whether to wait for another process that holds the lock.

    Attributes:
        is_held: whether the file is locked.
        error: the error of a file system that cannot lock files; otherwise None, also on a system without locks.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        self.path = path
        self.is_held = False
        self.error: OSError | None = None
        while True:
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(self._descriptor, wait)
            except BaseException:
                os.close(self._descriptor)
                raise
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(self._descriptor)):
                    return
            os.close(self._descriptor)  # the previous holder has removed the file that was opened here

    def _lock(self, descriptor: int, wait: bool) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_held = True
        except BlockingIOError:
            raise
        except OSError as error:
            self.error = error

    def release(self) -> None:
        """Removes the file and releases the lock; a second call does nothing."""
        if self._descriptor is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
