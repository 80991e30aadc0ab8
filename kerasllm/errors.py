"""Exceptions and warnings for everything that a user can correct; the message alone must be enough to do so."""

import contextlib
import errno
import importlib.util
from collections.abc import Iterator
from typing import Any

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The `errno` values of an `OSError` that mean a full disk or an exhausted quota."""

_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "can't allocate memory", "Unable to allocate")


class InputError(ValueError):
    """Raised for wrong input: a file, a value or a setting. The message names the place, the value and the remedy.

    The command line prints it as one line and exits with code 2.
    """


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Adds a place to the message of an `InputError` that code inside the `with` block raises without knowing it.

    Args:
        place: the option or file to name, such as "--corpus a.txt".

    Raises:
        InputError: the error from inside the block, with the place before its message.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def require(purpose: str, extra: str, *packages: str) -> None:
    """Checks that packages of an extra are installed, before they are imported or a long work needs them at its end.

    Args:
        purpose: what they are needed for, such as "ONNX".
        extra: the extra of kerasllm that installs them.
        packages: the names that they are imported by.

    Raises:
        InputError: one of them is missing.
    """
    missing = [name for name in packages if not _is_installed(name)]
    if missing:
        raise InputError(f"{purpose} needs {' and '.join(missing)}: pip install 'kerasllm[{extra}]'")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it lies in
        return False


class InputWarning(UserWarning):
    """Warns of something about the input that is worth knowing but is not a mistake.

    In Python it is an ordinary warning; the command line prints it as one line, without the line of source code.
    """


class NewHeadWarning(InputWarning):
    """Warns that a checkpoint lacks heads of the model that it is loaded into; they keep their initial values.

    Args:
        message: the text for the user.
        heads: names of the heads.
    """

    def __init__(self, message: str, heads: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.heads = heads


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun, in the plural unless it is 1: "1 step", "2,000 steps"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def short(value: Any) -> str:
    """Returns a value as a message shows it: its `repr`, cut off after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether the error means that a device is out of memory; each backend has its own exception for that."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError")
        or any(sign in str(error) for sign in _OUT_OF_MEMORY)
    )
