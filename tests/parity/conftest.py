"""One process a backend: Keras chooses its backend when it is imported, once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_backend(xla_flags):
    """Runs tests/parity/SCRIPT.py with arguments under a backend; its errors are the test's.

    `trains`: with XLA as users have it, and not so that it compiles fast.
    """

    def run(backend: str, script: str, *arguments, trains: bool = False) -> None:
        environment = os.environ | {
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "HF_HUB_OFFLINE": "1",
        }
        if not trains:
            environment["XLA_FLAGS"] = xla_flags(backend)
        command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{backend}:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}"

    return run
