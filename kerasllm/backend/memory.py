"""The memory of this process: what it has, what it may still take, and that what a step frees is there for the next.

Otherwise the C library hands blocks of some size back to the system, and gets them anew page by page: a step of BERT
mini took 52,000 pages, a seventh of its time.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from kerasllm.errors import InputError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1
_NO_LIMIT = 2**60  # bytes; a control group without a limit has a number that is larger


@cache
def keep() -> None:
    """Makes the C library keep freed memory from now on; does nothing where it is not GNU's.

    Reference: https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        return
    set_option(_MMAP_MAX, 0)  # of large blocks, too, a mapping each that would go with them
    set_option(_TRIM_THRESHOLD, _NEVER)
    set_option(_TOP_PAD, 64 * 2**20)


def in_use() -> int:
    """Returns the bytes of memory that this process has, after what it has freed went back to the system.

    Raises:
        InputError: the system does not tell.
    """
    gc.collect()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
    return _of_process("VmRSS")


def peak_during(function: Callable[[], Any]) -> int:
    """Returns the most bytes of memory that this process has at a time while it calls `function`.

    Raises:
        InputError: the system does not tell.
    """
    in_use()  # else what was freed before would hide what the function takes
    try:
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew, see proc(5)
    except OSError:
        function()
        return _of_process("VmRSS")  # as freed memory is kept, see `keep`
    function()
    return _of_process("VmHWM")


def limit(system: Path = Path("/")) -> int:
    """Returns the bytes that this process may have in all: what it has, and what machine and control groups have free.

    Args:
        system: the root of the file system.

    Raises:
        InputError: the system does not tell.
    """
    has = in_use()
    rooms: list[int | None] = [_kibibytes(system / "proc/meminfo", "MemAvailable")]
    for controllers, group in _control_groups(system / "proc/self/cgroup"):
        names = ("memory.max", "memory.current", "inactive_file")
        root = system / "sys/fs/cgroup"
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = root / "memory"
        own = root / group.lstrip("/")
        above = [own, *own.parents]
        rooms += [_room(level, *names) for level in above[: above.index(root) + 1]]
    return has + max(min(room for room in rooms if room is not None), 0)


def _control_groups(file: Path) -> list[tuple[str, str]]:
    """Returns the groups that may limit this process's memory: ("", path) of version 2, ("memory", path) of 1."""
    try:
        lines = [line.split(":", 2)[1:] for line in file.read_text().splitlines()]
    except OSError:
        return []
    return [
        (kinds and "memory", group) for kinds, group in lines if not kinds or "memory" in kinds.split(",")
    ]


def _room(group: Path, most: str, used: str, file_cache: str) -> int | None:
    """Returns the bytes that a control group has free; None without a limit. Files kept in memory count as free."""
    try:
        bound = int((group / most).read_text())
        taken = int((group / used).read_text())
        words = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):  # such as "max"
        return None
    if bound > _NO_LIMIT:
        return None
    return bound - taken + int(words[words.index(file_cache) + 1] if file_cache in words else 0)


def _of_process(name: str) -> int:
    return _kibibytes(Path("/proc/self/status"), name)


def _kibibytes(file: Path, name: str) -> int:
    """Returns a figure of a file of lines such as "VmRSS:   1234 kB", in bytes."""
    try:
        (line,) = (line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"this system does not tell how much memory there is ({name} in {file}): give a number for "
            "--batch_size"
        ) from error
    return 1024 * int(line.split()[1])
