"""What a step frees is there for the next one."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
import numpy as np
if sys.argv[1] == "kept":
    import kerasllm.backend.memory
    kerasllm.backend.memory.keep()
block = np.ones(200 * 2**20, np.uint8)
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    block = np.ones(200 * 2**20, np.uint8)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken_again(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's C library")
def test_pages_are_taken_once():
    let_go, kept = pages_taken_again("let go"), pages_taken_again("kept")
    assert kept < 100
    assert let_go > 100  # else there is nothing to keep
