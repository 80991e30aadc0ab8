"""Atomic writing of files: each is written under a temporary name, synced to the disk, and then renamed.

A rename within a directory is atomic, and the sync before it means that a power cut leaves the old file or
the new one, never half of one.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kerasllm.errors import DISK_FULL, InputError


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yields a path beside `path`; the file written there takes its place when the block ends without an error.

    Args:
        path: the file; its directory must exist.
        sync: whether the file must survive a power cut; a plot that is redrawn later need not.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
    temporary = _beside(path)
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            sync_directory(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str) -> None:
    """Writes a whole file, or leaves what was there.

    Args:
        path: the file; its directory must exist.
        content: text is written as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a whole file of a run, or leaves what was there.

    Args:
        path: the file; its directory must exist.
        content: text is written as UTF-8.

    Raises:
        InputError: the disk is full.
        OSError: the file cannot be written for any other reason.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InputError(
                f"{path}: the disk is full; free some space or choose another --output"
            ) from error
        raise


def write_output(path: Path, content: bytes | str) -> None:
    """Writes a file that the user named, whole or not at all.

    Args:
        path: the file, or a link to it.
        content: text is written as UTF-8.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        replace_file(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """Checks that `write_output` can write a file, before the work whose result the file will hold.

    Raises:
        InputError: its directory is missing or takes no files, or the path is a directory or a device.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file")
    if path.exists() and not path.is_file():  # writing would replace /dev/null by a file
        raise InputError(f"{path} is not an ordinary file; give another path")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.parent}; make it, or give another path")
    trial = _beside(Path(os.path.realpath(path)))
    try:  # permissions do not tell: root may write anywhere, but /proc takes no files
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def sync_directory(directory: Path) -> None:
    """Syncs a directory to the disk, so that a rename in it survives a power cut, if the system supports that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(path: Path) -> Path:
    """Returns the path of a new hidden file in the directory of a file."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}); give another path")


def check_outputs(outputs: Mapping[str, str | None], inputs: Iterable[str | None] = ()) -> None:
    """Checks that files can be written, that no two of them are one, and that none is read.

    Args:
        outputs: the paths by their options; None for what is not asked for.
        inputs: paths that are read.

    Raises:
        InputError: the message names the option or the path.
    """
    taken = {os.path.realpath(path): "is read, too" for path in inputs if path}
    for option, path in outputs.items():
        if not path:
            continue
        check_writable(Path(path))
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(f"{option} {path} {taken[place]}: give another path")
        taken[place] = f"is the path of {option}, too"
