"""The token cache as others may see it at any moment: locks, builds under way, builds left by the dead.

The lock is the operating system's, which releases it when its process dies, however it dies: no process
number and no time stamp has to be believed. Where files cannot be locked, two processes at once build the
same store twice and the first rename wins.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FORMAT_VERSION = 1
TOKEN_FILE = "tokens.bin"
SENTENCE_OFFSETS = "sentence_offsets.int64"
DOCUMENT_OFFSETS = "document_offsets.int64"
META_FILE = "meta.json"


def build_directory(cache: Path, key: str) -> Path:
    """A new name for a build under way, told apart from other builds of the same store."""
    return cache / f".{key}.{os.getpid()}-{os.urandom(4).hex()}.building"


@contextmanager
def build_lock(cache: Path, key: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds the right to build one store; the lock's file goes when it is released.

    Args:
        cache: the directory of all stores.
        key: the store's name.
        wait: whether to wait for another process that holds it.

    Yields whether the lock is held: False where another process has it (`wait=False`) or files cannot be
    locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    path = cache / f".{key}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held by another, or a file system without locks
            os.close(descriptor)
            yield False
            return
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)  # the holder before removed the file that was waited for
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def remove_stale_builds(cache: Path, own_key: str) -> None:
    """Removes what killed processes left half-made.

    Args:
        cache: the directory of all stores.
        own_key: of the store whose lock the caller holds.
    """
    for directory in cache.glob(".*.building"):
        key = directory.name.split(".")[1]
        if key == own_key:
            shutil.rmtree(directory, ignore_errors=True)
            continue
        with build_lock(cache, key, wait=False) as held:
            if held:
                shutil.rmtree(directory, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    """Makes a rename survive a power cut; a no-op where that cannot be asked."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
