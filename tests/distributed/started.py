"""Starts a command as several processes of one run, on free ports of 127.0.0.1."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Started:
    """Processes of one run; their output is in files, since nobody reads a pipe while another is waited for.

    Args:
        arguments: of Python.
        count: number of processes.
        backend: of Keras.
        directory: for the output.
        variables: more of the environment.
        devices: virtual devices of each process, on JAX.
    """

    def __init__(self, arguments, *, count, backend, directory, variables=None, devices=1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        directory.mkdir(parents=True, exist_ok=True)
        self.files = [directory / f"process-{number}.log" for number in range(count)]
        self.processes = []
        for number, file in enumerate(self.files):
            environment = os.environ | {
                "PYTHONPATH": str(ROOT),
                "KERAS_BACKEND": backend,
                "OMP_NUM_THREADS": "1",
            }
            environment |= {"GLOO_SOCKET_IFNAME": "lo", "PYTHONHASHSEED": "random"}
            if backend == "torch":
                environment |= {"RANK": str(number), "WORLD_SIZE": str(count)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            else:
                environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{port}"
                environment |= {"KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}
                environment |= {"KERAS_DISTRIBUTION_PROCESS_ID": str(number)}
                flags = os.environ.get("XLA_FLAGS", "")
                environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}"
            with file.open("wb") as log:
                command = [sys.executable, *map(str, arguments)]
                self.processes.append(
                    subprocess.Popen(
                        command,
                        env=environment | (variables or {}),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )

    def wait(self, seconds=120):
        """Returns the exit codes, in the order of the processes; none is left running, whatever happens."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(end - time.monotonic(), 0.1)) for process in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()

    @property
    def outputs(self):
        """What each process has printed."""
        return [file.read_text(errors="replace") for file in self.files]
