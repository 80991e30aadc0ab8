"""Measures tokens a second, memory and communication of a training in several processes of this machine.

The processes share one machine's processors, so that tokens a second in all cannot grow as they do on several. What it
shows is what a process holds, and what the exchange costs: the share of a step's time that is gone when as many
processes train on as many rows each at the same time, but alone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distributed_case import LENGTH

from kerasllm.errors import InputError, counted

CASE = Path(__file__).with_name("distributed_case.py")
ROWS = 16
"""Rows of a batch, of all processes together."""


def check_counts(counts: Sequence[int]) -> None:
    """Refuses numbers of processes among which a batch does not divide.

    Raises:
        InputError: there is such a number.
    """
    for count in counts:
        if count < 1 or ROWS % count:
            raise InputError(f"--processes {count}: a batch of {ROWS} rows does not divide among them")


def measure(backend: str, counts: Sequence[int], steps: int) -> Iterator[dict[str, Any]]:
    """Yields the figures of each number of processes and each mesh.

    Args:
        backend: "jax" or "torch".
        counts: numbers of processes, one after the other.
        steps: measured steps.
    """
    for count in counts:
        alone = [start(backend, [ROWS // count, steps, [1, 1, 1]], {}) for _ in range(count)]
        without = longest(alone)
        for mesh in ([count, 1, 1], [1, count, 1]) if count > 1 else ([1, 1, 1],):
            case = [ROWS, steps, mesh]
            together = [start(backend, case, place) for place in places(backend, count)] if count > 1 else []
            seconds, peak, state = longest(together) if together else without
            yield {
                "backend": backend,
                "processes": count,
                "mesh": mesh,
                "tokens_per_second": ROWS * LENGTH / seconds,
                "state_bytes": state,
                "peak_bytes": peak,
                "communication": max(1 - without[0] / seconds, 0.0),
            }


def in_words(row: dict[str, Any]) -> str:
    """Returns the figures as one line."""
    replica, fsdp, _ = row["mesh"]
    number = counted(row["processes"], "process", "processes")
    return (
        f"GPT 6x384 on {row['backend']}, {number} (replica {replica}, fsdp {fsdp}): "
        f"{row['tokens_per_second']:,.0f} tokens/s, {row['state_bytes'] / 2**20:,.0f} MiB of weights and optimizer and "
        f"{row['peak_bytes'] / 2**20:,.0f} at most in a process, {row['communication']:.0%} of a step in communication"
    )


def places(backend: str, count: int) -> list[dict[str, str]]:
    """Returns the variables of each process of a run on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if backend == "torch":
        common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [common | {"RANK": str(number)} for number in range(count)]
    common = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}"}
    common |= {"KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}
    return [common | {"KERAS_DISTRIBUTION_PROCESS_ID": str(number)} for number in range(count)]


def start(backend: str, case: list, variables: dict[str, str]) -> subprocess.Popen:
    """Starts one process, which takes one thread."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, str(CASE), json.dumps(case)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def longest(started: list[subprocess.Popen]) -> tuple[float, ...]:
    """Returns the seconds of a step of the slowest process, the greatest peak memory, and the greatest lasting one."""
    found = []
    try:
        for process in started:
            output, _ = process.communicate(timeout=900)
            if process.returncode:
                raise InputError(f"a process ended with {process.returncode}: see its error above")
            found.append(json.loads(output.splitlines()[-1]))
    finally:
        for process in started:
            process.kill()
            process.wait()
    return tuple(max(each[name] for each in found) for name in ("step_seconds", "peak_bytes", "state_bytes"))
