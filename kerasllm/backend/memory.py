"""Keeps the memory that a step frees with the process, so that the next step takes the same again.

Otherwise the C library hands blocks of some size back to the system, and gets them anew page by page: a step of BERT
mini took 52,000 pages, a seventh of its time.
"""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1


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
