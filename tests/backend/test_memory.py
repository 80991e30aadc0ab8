"""What a step frees is there for the next one, and what a process has and may have is told."""

import platform
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest

from kerasllm.backend import memory
from kerasllm.errors import InputError

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


def system(path, control_groups):
    """The files of a system with 8 GiB free, in which this process is in some control groups."""
    files = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB\n", **control_groups}
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


GIB = 2**30
SECOND = {
    "proc/self/cgroup": "0::/work/mine\n",
    "sys/fs/cgroup/work/mine/memory.max": "max\n",
    "sys/fs/cgroup/work/memory.max": f"{6 * GIB}\n",
    "sys/fs/cgroup/work/memory.current": f"{4 * GIB}\n",
    "sys/fs/cgroup/work/memory.stat": f"anon 5\ninactive_file {GIB}\n",
}
FIRST = {
    "proc/self/cgroup": "5:devices:/\n4:cpu,memory:/mine\n0::/\n",
    "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": f"{5 * GIB}\n",
    "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/mine/memory.stat": f"inactive_file 3\ntotal_inactive_file {GIB}\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/memory.stat": "",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells no process's memory in files")
class TestProcess:
    @pytest.mark.parametrize(
        ("control_groups", "free"),
        [({}, 8), (SECOND, 3), (FIRST, 2), (FIRST | {"proc/meminfo": "MemAvailable: 1048576 kB\n"}, 1)],
    )
    def test_the_limit_is_the_machines_or_the_control_groups(self, control_groups, free, tmp_path):
        has = memory.in_use()
        assert memory.limit(system(tmp_path, control_groups)) == pytest.approx(has + free * GIB, abs=2**24)

    def test_a_system_that_does_not_tell(self, tmp_path):
        with pytest.raises(InputError, match="give a number for --batch_size"):
            memory.limit(tmp_path)

    def test_what_was_freed_hides_no_peak(self):
        has = memory.in_use()
        block = np.ones(2**27, np.uint8)
        del block
        peak = memory.peak_during(lambda: np.ones(2**26, np.uint8))
        assert abs(peak - has - 2**26) < 2**23
        assert abs(memory.in_use() - has) < 2**23

    def test_a_peak_that_cannot_begin_anew(self, monkeypatch):
        """The kernel may refuse it; what is freed is kept then, and counts."""
        memory.keep()
        monkeypatch.setattr(memory.Path, "write_text", Mock(side_effect=PermissionError))
        has = memory.in_use()
        assert abs(memory.peak_during(lambda: np.ones(2**26, np.uint8)) - has - 2**26) < 2**23
        assert abs(memory.in_use() - has) < 2**23
