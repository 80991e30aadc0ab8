"""Measures the same work through kerasllm, KerasHub, transformers and a plain PyTorch loop on this machine.

KERAS_BACKEND=jax python recipes/benchmark --output runs/benchmark

Each measurement runs in a process of its own (`one_case.py`), and the contenders take turns, so that a machine that
slows down slows all of them. Libraries and backends that are not installed are left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from benchmark_report import draw, show
from distributed import check_counts, in_words
from distributed import measure as measure_processes
from input_case import prepare
from works import STEPS, WORKS, WORKS_ON_GPU, Case, contenders

import kerasllm
from kerasllm import cli
from kerasllm.backend.processor import machine
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.lines import require_file
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_atomically
from kerasllm.files.json import to_json

SECONDS_AT_MOST = 900
DISTRIBUTED = "distributed"

Backend = Literal["jax", "torch", "tensorflow"]
Precision = Literal["float32", "tf32", "mixed_bfloat16"]
Work = Literal[
    "bert",
    "packing",
    "gpt",
    "shakespeare",
    "translation",
    "recurrent",
    "host",
    "generation",
    "input",
    "distributed",
]


@dataclass
class Config:
    """Measures kerasllm and other libraries on this machine, which should do nothing else meanwhile."""

    output: str
    """Directory for benchmark.json and benchmark.png."""

    work: list[Work] = field(default_factory=list)
    """What to measure: training of bert, packed short pairs, gpt, characters …; all but distributed if none."""

    text: str = ""
    """Text file for the input; if empty, 30 MB are made of Python's own documentation."""

    backends: list[Backend] = field(default_factory=lambda: [*get_args(Backend)])
    """Keras backends to measure."""

    device: Literal["cpu", "gpu"] = "cpu"
    """gpu: the models of GPUs' users (BERT base, GPT-2 124M, nanoGPT's characters) on one NVIDIA GPU."""

    precisions: list[Precision] = field(default_factory=lambda: ["float32", "mixed_bfloat16"])
    """Precisions of bert, gpt and generation, on a GPU also of packing and shakespeare; else it is float32."""

    repeats: int = field(default=3, metadata=at_least(1))
    """Measurements of each contender; the contenders take turns."""

    steps: int = field(default=8, metadata=at_least(1))
    """Measured steps per measurement; shakespeare has 25 times as many, host 125, generation three calls for 8."""

    peers: bool = True
    """Measure the other libraries too."""

    processes: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of processes of distributed, which trains a GPT in several on JAX and PyTorch."""


def main(config: Config) -> int:
    """Measures all works, writes the JSON after each, prints the table and draws the picture."""
    works = works_of(config)
    if config.text:
        require_file(config.text)
    check_counts(config.processes)
    where = machine() | ({"card": card()} if config.device == "gpu" else {})
    directory = Path(config.output)
    file = directory / "benchmark.json"
    if file.exists():
        raise InputError(f"{file} is there already: choose another --output")
    directory.mkdir(parents=True, exist_ok=True)
    check_writable(file)
    backends = [name for name in dict.fromkeys(config.backends) if find_spec(name)]
    if not backends:
        raise InputError(f"--backends {' '.join(config.backends)}: none of them is installed")
    wanted = [*config.backends, *(("keras_hub", "transformers") if config.peers else ())]
    if missing := [name for name in wanted if not find_spec(name)]:
        print(f"left out, as not installed: {', '.join(missing)}", flush=True)
    report: dict[str, Any] = {"settings": vars(config), "kerasllm": kerasllm.__version__, "machine": where}
    measured: list[dict[str, Any]] = []
    for work in works:
        if work == DISTRIBUTED:
            report[DISTRIBUTED] = measure_distributed(backends, config.processes, config.steps)
        else:
            measured += measure_work(work, backends, config, directory)
        write_atomically(file, to_json(report | {"cases": measured}, indent=1) + "\n")
    if measured:
        show(measured)
        draw(measured, directory / "benchmark.png")
    print(f"written to {directory}")
    return 0 if measured or report.get(DISTRIBUTED) else 1


def measure_work(work: str, backends: Sequence[str], config: Config, directory: Path) -> list[dict[str, Any]]:
    """Returns the summaries of all cases of a work."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".input-") as place:
        more: dict[str, Any] = {}
        if work == "input":
            prepare(Path(place), config.text, WORKS[work][0]["megabytes"])
            more = {"directory": place, "text": config.text}
        precisions = [*dict.fromkeys(config.precisions)]
        cases = contenders(work, backends, precisions, config.peers, config.device, **more)
        return measure(list(cases), config.repeats, config.steps)


def measure_distributed(backends: Sequence[str], counts: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """Returns the figures of trainings in several processes, and prints each."""
    found = []
    for backend in backends:
        if backend == "tensorflow":
            print("left out: several processes on tensorflow, which kerasllm refuses", flush=True)
            continue
        for row in measure_processes(backend, counts, steps):
            print(in_words(row), flush=True)
            found.append(row)
    return found


def works_of(config: Config) -> list[str]:
    """Returns the works to measure.

    Raises:
        InputError: the device has no such work or precision.
    """
    known = WORKS_ON_GPU if config.device == "gpu" else WORKS
    for work in config.work:
        if work not in (*known, *([DISTRIBUTED] if config.device == "cpu" else [])):
            raise InputError(f"--work {work} is measured on a CPU; a GPU has {', '.join(known)}")
    if config.device == "cpu" and "tf32" in config.precisions:
        raise InputError("--precisions tf32 is a GPU's: add --device gpu")
    return [*dict.fromkeys(config.work or known)]


def card() -> str:
    """Returns the name, memory and driver of the GPU, as its driver tells them.

    Raises:
        InputError: there is none.
    """
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return found.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise InputError(f"--device gpu: nvidia-smi finds no GPU here ({error})") from error


def measure(cases: list[Case], repeats: int, steps: int) -> list[dict[str, Any]]:
    """Runs all cases in turn, `repeats` times; a case that fails is reported and left out.

    Returns:
        The summary of each case that gave figures. The MFU of every contender is computed with kerasllm's FLOPs per
        token and one peak, that of the fastest product among the cases of the same backend and precision.
    """
    runs: list[list[dict[str, Any]]] = [[] for _ in cases]
    for repeat in range(repeats):
        for case, figures in zip(cases, runs, strict=True):
            if len(figures) < repeat:
                continue
            print(f"{case.label} ({repeat + 1} of {repeats})", file=sys.stderr, flush=True)
            found = run_case(case, max(round(steps * STEPS.get(case.work, 1.0)), 1))
            figures += [found] if found is not None else []
    done = [(case, figures) for case, figures in zip(cases, runs, strict=True) if figures]
    flops = next((found[0]["flops_per_token"] for _, found in done if "flops_per_token" in found[0]), None)
    peaks: dict[tuple, float] = {}  # by backend and precision, fields 2 and 3 of a case
    for case, figures in done:
        if "peak_flops" in figures[0]:
            peak = statistics.median(run["peak_flops"] for run in figures)
            peaks[case[2:4]] = max(peak, peaks.get(case[2:4], 0.0))
    return [summary(case, figures, flops, peaks.get(case[2:4])) for case, figures in done]


def run_case(case: Case, steps: int) -> dict[str, Any] | None:
    """Returns the figures that the process of one measurement prints; None if it failed."""
    command = [sys.executable, str(Path(__file__).with_name("one_case.py")), json.dumps([steps, *case])]
    paths = [str(Path(kerasllm.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "KERAS_BACKEND": case.backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if not case.on_gpu:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    reason = f"took more than {SECONDS_AT_MOST} s"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS_AT_MOST
        )
        if not done.returncode and (lines := done.stdout.strip().splitlines()):
            return json.loads(lines[-1])
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
    except subprocess.TimeoutExpired:
        pass
    print(f"left out: {case.label}: {reason}", file=sys.stderr, flush=True)
    return None


def summary(
    case: Case, runs: list[dict[str, Any]], flops: float | None, peak: float | None
) -> dict[str, Any]:
    """Returns median, lowest and greatest speed of the repeats, and the MFU if `flops` and `peak` are known."""
    speeds = [run["tokens"] / run["step_seconds"] for run in runs]
    speed = statistics.median(speeds)
    result = {
        **case._asdict(),
        "tokens_per_second": {"median": speed, "lowest": min(speeds), "greatest": max(speeds)},
        "versions": runs[0]["versions"],
        "runs": runs,
    }
    medians = {
        "step_seconds",
        "first_seconds",
        "peak_bytes",
        "bytes_per_second",
        "tokenizing_bytes_per_second",
    }
    for name in sorted(medians & {*runs[0]}):
        result[name] = statistics.median(run[name] for run in runs)
    if flops is not None and peak is not None:
        result |= {"flops_per_second": speed * flops, "peak_flops": peak, "mfu": speed * flops / peak}
    return result


if __name__ == "__main__":
    cli.run(main, Config)
