"""Files that are either whole or not there: written beside their place, synced to the disk, then renamed.

A rename within a directory is atomic, and the sync before it means that a power cut leaves the old file or
the new one, never half of one.
"""

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasllm.cli.settings import plain
from kerasllm.errors import DISK_FULL, InputError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a whole file, or leaves what was there.

    Args:
        path: the file; its directory must exist.
        content: text is written as UTF-8.

    Raises:
        InputError: the disk is full.
        OSError: any other failure to write.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InputError(
                f"{path}: the disk is full; free some space or choose another --output"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Whether `write_output` could write a file, asked before the work whose result it is to hold.

    Raises:
        InputError: its directory is missing or takes no files, or the path is a directory or a device.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file")
    if path.exists() and not path.is_file():  # a file would take the place of /dev/null
        raise InputError(f"{path} is not an ordinary file; give another path")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.parent}; make it, or give another path")
    trial = _beside(Path(os.path.realpath(path)))
    try:  # permissions do not tell: to root all is permitted, and /proc takes no files all the same
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_output(path: Path, content: str) -> None:
    """Writes a file that the user named, atomically; whatever fails is the user's to mend.

    Args:
        path: the file, or a link to it.
        content: the text.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        write_atomically(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _beside(path: Path) -> Path:
    """A new hidden name in the directory of a file."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}); give another path")


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory, and so a rename, survive a power cut, where that can be asked."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON that every reader takes: NumPy scalars as numbers, NaN and infinities as null."""
    return json.dumps(_finite(plain(value)), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
