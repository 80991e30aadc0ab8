"""The processes of one run, as the program that starts them describes them in the environment.

On JAX these are Keras' own variables, KERAS_DISTRIBUTION_JOB_ADDRESSES, KERAS_DISTRIBUTION_NUM_PROCESSES and
KERAS_DISTRIBUTION_PROCESS_ID; on PyTorch those of `torchrun`, RANK, WORLD_SIZE and MASTER_ADDR. Process 0 writes and
prints; the others compute, and print errors alone. This module needs no Keras: `kerasllm.backend.join` connects them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

from kerasllm.errors import InputError


class ToldByFirst(InputError):
    """Raised in the other processes for an error that the first one has met, and prints."""


_KERAS = ("KERAS_DISTRIBUTION_PROCESS_ID", "KERAS_DISTRIBUTION_NUM_PROCESSES")
_TORCH = ("RANK", "WORLD_SIZE")

SECONDS_UNTIL_LOST = 30
"""Seconds without a sign of life after which a process counts as lost."""

LOST = 1
"""Exit code of a process whose run ends because another process is lost."""

_SIGNS_OF_LOSS = (
    "Gloo",
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset",
    "heartbeat",
    "oordination",
)


def place() -> tuple[int, int]:
    """Returns the number of this process, from 0, and the number of processes: (0, 1) for a run of one.

    Raises:
        InputError: a variable is no whole number, or the numbers do not go together.
    """
    names = _KERAS if _KERAS[1] in os.environ else _TORCH
    if names is _TORCH and not {*_TORCH, "MASTER_ADDR"} <= os.environ.keys():
        return 0, 1
    texts = [os.environ.get(name, "0") for name in names]
    words = f"{names[0]}={texts[0]} {names[1]}={texts[1]}"
    try:
        number, count = map(int, texts)
    except ValueError as error:
        raise InputError(f"{words}: both must be whole numbers") from error
    if not 0 <= number < count:
        raise InputError(f"{words}: processes are numbered from 0 to one less than their count")
    return number, count


def is_first() -> bool:
    """Returns whether this process is the one that writes and prints."""
    return place()[0] == 0


def name() -> str:
    """Returns "process 1 of 4: " for the beginning of a message, processes numbered from 0; nothing in a run of one."""
    try:
        number, count = place()
    except InputError:  # which is what the message says
        return ""
    return f"process {number} of {count}: " if count > 1 else ""


@contextlib.contextmanager
def first_one_prints() -> Iterator[None]:
    """Within, what Python prints is lost in all processes but the first."""
    if is_first():
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def is_loss(error: BaseException) -> bool:
    """Returns whether an error says that another process no longer answers."""
    return place()[1] > 1 and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def end(code: int, error: BaseException | None = None) -> None:
    """Ends a process of several at once, without waiting for the others, which notice it; does nothing in a run of one.

    Python's own end would first wait until all processes come to theirs.

    Args:
        code: the exit code.
        error: an unexpected error, whose trace is printed line by line with the number of the process.
    """
    if not name():
        return
    lines = [] if error is None else "".join(traceback.format_exception(error)).splitlines()
    for line in lines:
        print(name() + line, file=sys.stderr)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def watch_for_errors() -> None:
    """Lets a script that ends by an uncaught error end at once, instead of waiting for the other processes."""

    def leave() -> None:
        if getattr(sys, "last_exc", None) is not None:
            end(1)

    atexit.register(leave)
