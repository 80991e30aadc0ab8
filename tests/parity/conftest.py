"""A process for each backend: Keras chooses its backend when it is imported, once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A process that runs scripts of this folder under a backend, one after another."""

    def __init__(self, backend: str, xla_flags: str, errors: Path) -> None:
        environment = os.environ | {
            "KERAS_BACKEND": backend,
            "XLA_FLAGS": xla_flags,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "HF_HUB_OFFLINE": "1",
        }
        self._backend, self._errors = backend, errors
        command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(command, env=environment, stderr=stderr, **pipes)

    def run(self, *arguments: str) -> None:
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        failure = json.loads(answer) if answer else "the process has ended"
        assert not failure, f"{self._backend}:\n{failure[-5000:]}\n{self._errors.read_text()[-2000:]}"

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def run_backend(xla_flags, tmp_path_factory):
    """Runs tests/parity/SCRIPT.py with arguments under a backend; its errors are the test's.

    A backend's scripts share a process, since starting one takes as long as most of them.
    `trains`: with XLA as users have it, and not so that it compiles fast.
    """
    directory = tmp_path_factory.mktemp("workers")
    workers: dict[tuple[str, str], Worker] = {}

    def run(backend: str, script: str, *arguments, trains: bool = False) -> None:
        flags = os.environ.get("XLA_FLAGS", "") if trains else xla_flags(backend)
        if (backend, flags) not in workers or not workers[backend, flags].is_alive():
            errors = directory / f"{backend}_{len(list(directory.iterdir()))}.txt"
            workers[backend, flags] = Worker(backend, flags, errors)
        workers[backend, flags].run(str(Path(__file__).with_name(f"{script}.py")), *map(str, arguments))

    yield run
    for worker in workers.values():
        worker.end()
