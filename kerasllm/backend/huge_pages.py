"""Huge pages for memory that is taken anew in each step: what the kernel hands out comes in fewer, larger pieces.

A step of BERT mini takes 600 MB, 150,000 pages, which took a seventh of its time.
"""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LEAST = 64 * 2**20


def ask(address: int) -> None:
    """Asks for huge pages in the block of memory, of 64 MiB or more, that an address lies in.

    Nothing where the system does not leave that to programs (Linux: transparent_hugepage/enabled is `madvise`).
    """
    advise = _madvise()
    if advise is None:
        return
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line[: line.index(b" ")].split(b"-"))
            if end > address:
                if start <= address and end - start >= _LEAST:
                    advise(start, end - start, mmap.MADV_HUGEPAGE)
                return


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE") or not _SETTING.exists() or "[madvise]" not in _SETTING.read_text():
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
