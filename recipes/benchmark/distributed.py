"""Tokens a second, memory and communication of a training in one, two and four processes of this machine.

KERAS_BACKEND=torch python recipes/benchmark/distributed.py --counts 1 2 4

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
from dataclasses import dataclass, field
from pathlib import Path

from distributed_case import LENGTH

from kerasllm import backend, cli
from kerasllm.cli.ranges import at_least
from kerasllm.errors import InputError

CASE = Path(__file__).with_name("distributed_case.py")


@dataclass
class Config:
    """Trains a GPT 6x384 with sequences of 128 tokens in several processes."""

    counts: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of processes, one after the other."""

    batch_size: int = field(default=16, metadata=at_least(1))
    """Rows of a batch, of all processes together."""

    steps: int = field(default=6, metadata=at_least(1))
    """Measured steps."""

    jit_compile: bool = False
    """With PyTorch: whether the steps are compiled, as those of JAX always are."""


def main(config: Config) -> int:
    """Prints one line for each number of processes and each mesh."""
    if backend.name == "tensorflow":
        raise InputError("several processes take KERAS_BACKEND=jax or KERAS_BACKEND=torch")
    if any(count < 1 or config.batch_size % count for count in config.counts):
        raise InputError(f"--batch_size {config.batch_size} must be a multiple of each of --counts")
    columns = ("processes", "mesh", "tokens/s", "MiB a process: weights and optimizer", "peak")
    print(f"| {' | '.join(columns)} | share of the time in communication |")
    print("|---|---|---|---|---|---|", flush=True)
    for count in config.counts:
        own = config.batch_size // count
        alone = [run([own, config.steps, [1, 1, 1], config.jit_compile], {}) for _ in range(count)]
        without = longest(alone)
        meshes = {"replica": [count, 1, 1], "fsdp": [1, count, 1]}
        for name, mesh in meshes.items() if count > 1 else [("", [1, 1, 1])]:
            case = [config.batch_size, config.steps, mesh, config.jit_compile]
            seconds, peak, state = longest([run(case, place) for place in places(count)]) if name else without
            share = max(1 - without[0] / seconds, 0.0)
            speed = config.batch_size * LENGTH / seconds
            memory = f"{state / 2**20:,.0f} | {peak / 2**20:,.0f}"
            print(f"| {count} | {name} | {speed:,.0f} | {memory} | {100 * share:.0f} % |", flush=True)
    return 0


def places(count: int) -> list[dict[str, str]]:
    """Returns the variables of each process of a run on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if backend.name == "torch":
        common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [common | {"RANK": str(number)} for number in range(count)]
    common = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}"}
    common |= {"KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}
    return [common | {"KERAS_DISTRIBUTION_PROCESS_ID": str(number)} for number in range(count)]


def run(case: list, variables: dict[str, str]) -> subprocess.Popen:
    """Starts one process, which takes one thread."""
    environment = {**os.environ, "KERAS_BACKEND": backend.name, "OMP_NUM_THREADS": "1", **variables}
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


if __name__ == "__main__":
    cli.run(main, Config)
