"""The same work through kerasllm, KerasHub, transformers and a plain PyTorch loop, side by side on this machine.

KERAS_BACKEND=jax python recipes/benchmark.py --output runs/benchmark

Each measurement is a process of its own (`benchmark_*.py` beside this file), and the contenders take turns, so that a
machine that slows down slows all of them. Libraries and backends that are not installed are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from kerasllm import __version__, cli
from kerasllm.backend.processor import machine
from kerasllm.cli.ranges import check_ranges
from kerasllm.data.sources.lines import require_file
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_atomically
from kerasllm.files.json import to_json
from kerasllm.training.run.curves import plot_bars

MINI_BERT = {"num_layers": 4, "num_heads": 4, "hidden_dim": 256, "vocabulary_size": 30522}
MINI_BERT |= {"length": 128, "batch_size": 32}
TINY_GPT = {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "vocabulary_size": 66}
SMALL_GPT = {"num_layers": 6, "num_heads": 6, "hidden_dim": 384}
GENERATED = {"vocabulary_size": 50257, "length": 32, "new_tokens": 128}
WORKS: dict[str, list[dict[str, Any]]] = {
    "bert": [{**MINI_BERT, "slots": 20, "dropout": 0.1}],
    "packing": [{**MINI_BERT, "dropout": 0.1}],
    "gpt": [{**SMALL_GPT, "vocabulary_size": 50304, "length": 256, "batch_size": 8}],
    "shakespeare": [{**TINY_GPT, "length": 64, "batch_size": 12}],
    "generation": [{**SMALL_GPT, **GENERATED, "batch_size": size} for size in (1, 8)],
    "input": [
        {"kind": "pairs", "length": 128, "batch_size": 32, "processes": 2, "megabytes": 30},
        {"kind": "windows", "length": 256, "batch_size": 8, "processes": 2, "megabytes": 30},
    ],
}
"""The shapes that each work is measured at."""

TITLES = {
    "bert": "BERT mini, pretraining",
    "packing": "BERT mini, short pairs",
    "gpt": "GPT 6x384, training",
    "shakespeare": "GPT 4x128 of characters, training",
    "generation": "GPT 6x384, generation",
    "input": "Text file to batches",
}
STEPS = {"shakespeare": 25.0, "generation": 0.375}
"""Measured steps, or calls, for each of `--steps`, where not one."""

PEERS = dict.fromkeys(("bert", "gpt", "generation"), "transformers")
PEERS |= {"shakespeare": "torch_loop", "input": "datasets"}
NEEDS = {"transformers": ("torch", "transformers"), "torch_loop": ("torch",), "keras_hub": ("keras_hub",)}
NEEDS["datasets"] = ("datasets", *NEEDS["transformers"])
NAMES = {"kerasllm_all_logits": "kerasllm, all logits", "kerasllm_padded": "padded rows"}
NAMES |= {"keras_hub": "KerasHub", "torch_loop": "plain PyTorch"}
SECONDS_AT_MOST = 900

Backend = Literal["jax", "torch", "tensorflow"]
Work = Literal["bert", "packing", "gpt", "shakespeare", "generation", "input"]


@dataclass
class Config:
    """Measures kerasllm beside other libraries on this machine; keep the machine idle meanwhile."""

    output: str
    """Directory for benchmark.json and benchmark.png."""

    work: list[Work] = field(default_factory=lambda: [*get_args(Work)])
    """What to measure: training of bert, short pairs packed, gpt, and characters; generation; the input alone."""

    text: str = ""
    """A file, the text of the input; unless given, 30 MB are made of Python's own documentation."""

    backends: list[Backend] = field(default_factory=lambda: ["jax", "torch", "tensorflow"])
    """Keras' backends."""

    precisions: list[Literal["float32", "mixed_bfloat16"]] = field(
        default_factory=lambda: ["float32", "mixed_bfloat16"]
    )
    """Precisions of bert, gpt and generation; the others are measured in float32."""

    repeats: int = 3
    """Measurements of each contender, one after another in turn."""

    steps: int = 8
    """Measured steps of a measurement: 25 times as many of shakespeare, three calls of generation for 8."""

    peers: bool = True
    """Measure the other libraries too."""


class Case(NamedTuple):
    """A contender at one work."""

    work: str
    peer: str
    backend: str
    precision: str
    shape: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the work and its shape."""
        batch = f", batch {self.shape['batch_size']}" if self.work == "generation" else ""
        return TITLES[self.work] + batch + (f", {self.shape['kind']}" if self.work == "input" else "")

    @property
    def label(self) -> str:
        """As one reads it."""
        return f"{self.name}: {NAMES.get(self.peer, self.peer)} on {self.backend}, {self.precision}"


def main(config: Config) -> int:
    """Measure → table → JSON and picture."""
    check_ranges(config)
    if config.text:
        require_file(config.text)
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
    measured: list[dict[str, Any]] = []
    for work in dict.fromkeys(config.work):
        measured += measure(config, list(cases(config, work, backends)))
        shutil.rmtree(input_directory(config), ignore_errors=True)
        report = {"settings": vars(config), "kerasllm": __version__, "machine": machine(), "cases": measured}
        write_atomically(file, to_json(report, indent=1) + "\n")
    show(measured)
    draw(measured, directory / "benchmark.png")
    print(f"written to {directory}")
    return 0 if measured else 1


def cases(config: Config, work: str, backends: Sequence[str]) -> Iterator[Case]:
    """Who takes part in a work."""
    precisions = dict.fromkeys(config.precisions) if work in ("bert", "gpt", "generation") else ["float32"]
    ours = ["kerasllm", *{"gpt": ["kerasllm_all_logits"], "packing": ["kerasllm_padded"]}.get(work, [])]
    with_hub = config.peers and PEERS.get(work) == "transformers" and installed("keras_hub")
    hub = ["keras_hub"] if with_hub else []
    if work == "input":
        given = {"directory": str(input_directory(config)), "text": config.text}
        for shape in WORKS[work]:
            yield Case(work, "kerasllm", backends[0], "float32", shape | given)
            if config.peers and installed(PEERS[work]):
                yield Case(work, PEERS[work], backends[0], "float32", shape | given)
        return
    for shape in WORKS[work]:
        for precision in precisions:
            for backend in backends:
                for peer in ours + hub:
                    yield Case(work, peer, backend, precision, shape)
            if config.peers and "torch" in backends and work in PEERS and installed(PEERS[work]):
                yield Case(work, PEERS[work], "torch", precision, shape)


def input_directory(config: Config) -> Path:
    """For a text that is made, and tokenizers."""
    return Path(config.output) / f".input-{os.getpid()}"


def installed(peer: str) -> bool:
    """Whether all that a peer needs is."""
    return all(find_spec(name) for name in NEEDS[peer])


def measure(config: Config, contenders: list[Case]) -> list[dict[str, Any]]:
    """Runs all contenders in turn, as often as asked for; one that fails is told and left out."""
    runs: dict[int, list[dict[str, Any]]] = {number: [] for number in range(len(contenders))}
    for repeat in range(config.repeats):
        for number, case in enumerate(contenders):
            if len(runs[number]) < repeat:
                continue
            steps = max(round(config.steps * STEPS.get(case.work, 1.0)), 1)
            print(f"{case.label} ({repeat + 1} of {config.repeats})", file=sys.stderr, flush=True)
            figures = run_case(case, steps)
            if figures is not None:
                runs[number].append(figures)
    flops = {
        (case.work, case.shape["batch_size"]): runs[number][0]["flops_per_token"]
        for number, case in enumerate(contenders)
        if runs[number] and "flops_per_token" in runs[number][0]
    }
    # Of a backend, the fastest product that anybody's process found: one peak for all who are held against it.
    peaks: dict[tuple[str, str], float] = {}
    for number, case in enumerate(contenders):
        found = [run["peak_flops"] for run in runs[number] if "peak_flops" in run]
        if found:
            key = (case.backend, case.precision)
            peaks[key] = max(statistics.median(found), peaks.get(key, 0.0))
    return [
        summary(
            case,
            runs[number],
            flops.get((case.work, case.shape["batch_size"])),
            peaks.get((case.backend, case.precision)),
        )
        for number, case in enumerate(contenders)
        if runs[number]
    ]


def run_case(case: Case, steps: int) -> dict[str, Any] | None:
    """What the process of one measurement prints; None if it failed."""
    script = "benchmark_peers.py" if case.peer in ("transformers", "torch_loop") else "benchmark_case.py"
    settings = {"work": case.work, "peer": case.peer, "precision": case.precision, "steps": steps}
    settings |= {"slots": 0, "new_tokens": 0, "dropout": 0.0}
    if case.work == "input":
        script, settings = "benchmark_input.py", {"peer": case.peer}
    command = [sys.executable, str(Path(__file__).resolve().with_name(script))]
    for name, value in (settings | case.shape).items():
        command += [f"--{name}", str(value)]
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "KERAS_BACKEND": case.backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS_AT_MOST
        )
    except subprocess.TimeoutExpired:
        print(f"left out: {case.label}: took more than {SECONDS_AT_MOST} s", file=sys.stderr, flush=True)
        return None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"left out: {case.label}: {reason}", file=sys.stderr, flush=True)
        return None
    return json.loads(lines[-1])


def summary(
    case: Case, runs: list[dict[str, Any]], flops: float | None, peak: float | None
) -> dict[str, Any]:
    """Median, lowest and greatest of the repeats; with the arithmetic of a token, its share of the peak."""
    speeds = [run["tokens"] / run["step_seconds"] for run in runs]
    speed = statistics.median(speeds)
    result: dict[str, Any] = {
        **{"work": case.work, "peer": case.peer, "backend": case.backend, "precision": case.precision},
        "shape": case.shape,
        "tokens_per_second": {"median": speed, "lowest": min(speeds), "greatest": max(speeds)},
        "step_seconds": statistics.median(run["step_seconds"] for run in runs),
        "first_seconds": statistics.median(run["first_seconds"] for run in runs),
        "peak_bytes": statistics.median(run["peak_bytes"] for run in runs),
        "versions": runs[0]["versions"],
        "runs": runs,
    }
    if flops is not None and peak is not None:
        result |= {"flops_per_second": speed * flops, "peak_flops": peak, "mfu": speed * flops / peak}
    for name in {"waiting", "bytes_per_second", "tokenizing_bytes_per_second"} & {*runs[0]}:
        result[name] = statistics.median(run[name] for run in runs)
    return result


def describe(result: dict[str, Any]) -> tuple[str, str]:
    """Names of the work and of the contender."""
    case = Case(*(result[name] for name in Case._fields))
    return case.name, NAMES.get(case.peer, case.peer)


def show(measured: list[dict[str, Any]]) -> None:
    """The table, and how we compare, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Medians of the repeats, lowest and greatest in brackets")
    columns = ["work", "library", "backend", "precision"]
    for column in [*columns, *("tokens/s", "ms", "GFLOP/s", "MFU", "MB", "first (s)", "data")]:
        table.add_column(column, justify="left" if column in columns else "right", no_wrap=column != "work")
    for result in measured:
        speed = result["tokens_per_second"]
        table.add_row(
            *describe(result),
            result["backend"],
            result["precision"].removeprefix("mixed_"),
            f"{speed['median']:,.0f}"
            + (f" ({speed['lowest']:,.0f}-{speed['greatest']:,.0f})" if len(result["runs"]) > 1 else ""),
            f"{1e3 * result['step_seconds']:,.1f}",
            f"{result['flops_per_second'] / 1e9:,.0f}" if "mfu" in result else "",
            f"{100 * result['mfu']:.0f} %" if "mfu" in result else "",
            f"{result['peak_bytes'] / 1e6:,.0f}",
            f"{result['first_seconds']:.1f}",
            f"{100 * result['waiting']:.1f} %" if "waiting" in result else "",
        )
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for line in comparisons(measured):
        console.print(line, highlight=False)


def comparisons(measured: list[dict[str, Any]]) -> Iterator[str]:
    """How many times as fast as each other library ours is: on the same backend, and the best of each."""
    best: dict[str, dict[str, dict[str, float]]] = {}
    for result in measured:
        name, library = describe(result)
        speed = result["tokens_per_second"]["median"]
        found = {f"{place}, best precision": speed for place in (result["backend"], "best backend")}
        if result["work"] == "input":
            found = {"all": result["bytes_per_second"], "tokenizing": result["tokenizing_bytes_per_second"]}
        for place, speed in found.items():
            speeds = best.setdefault(name, {}).setdefault(place, {})
            speeds[library] = max(speeds.get(library, 0.0), speed)
    for name, places in best.items():
        for place, speeds in places.items():
            others = [other for other in speeds if not other.startswith("kerasllm")]
            if others and "kerasllm" in speeds:
                shown = ", ".join(f"{speeds['kerasllm'] / speeds[other]:.2f} x {other}" for other in others)
                yield f"{name}, {place}: kerasllm = {shown}"


def draw(measured: list[dict[str, Any]], path: Path) -> None:
    """Tokens a second, and the memory that training takes."""
    panels: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for result in measured:
        name, library = describe(result)
        series = library + (" bfloat16" if result["precision"] == "mixed_bfloat16" else "")
        speed = result["tokens_per_second"]
        bar = (speed["median"], speed["lowest"], speed["greatest"])
        panels.setdefault(f"{name} (tokens/s)", {}).setdefault(result["backend"], {})[series] = bar
        if result["work"] == "gpt":
            sizes = sorted(run["peak_bytes"] / 1e6 for run in result["runs"])
            bar = (statistics.median(sizes), sizes[0], sizes[-1])
            panels.setdefault(f"{name} (peak MB)", {}).setdefault(result["backend"], {})[series] = bar
    if panels:
        where = machine()
        plot_bars(panels, path, f"{where['processor']}, {where['cores']} cores")


if __name__ == "__main__":
    cli.run(main, Config)
