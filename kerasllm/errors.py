"""One exception for everything a user can put right: the message alone must be enough to do so."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the `OSError`s that say so."""


class InputError(ValueError):
    """Wrong input: a file, a value or a setting. The message names the place, the value and the mend.

    The command line prints it as one line and exits with code 2.
    """


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Puts the place before what an `InputError` says, for those who raise it without knowing where they are.

    Args:
        place: "--corpus a.txt".

    Raises:
        InputError: as within, with the place.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


class InputWarning(UserWarning):
    """Something about the input that is worth knowing and no mistake.

    In Python an ordinary warning; the command line prints it as one line, without the line of source code.
    """


class NewHeadWarning(InputWarning):
    """A checkpoint lacks heads of the model that it is read into; they have initial values.

    Args:
        message: for the user.
        heads: their names.
    """

    def __init__(self, message: str, heads: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.heads = heads


def short(value: Any) -> str:
    """Returns a value as a message shows it: its `repr`, cut off after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
