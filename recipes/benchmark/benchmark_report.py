"""Prints the benchmark's table and draws its picture."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from works import Case

from kerasllm.backend.processor import machine
from kerasllm.training.run.comparisons import plot_bars


def describe(result: dict[str, Any]) -> tuple[str, str]:
    """Returns the names of the work and of the contender."""
    case = Case(*(result[name] for name in Case._fields))
    return case.title, case.library


def show(measured: list[dict[str, Any]]) -> None:
    """Prints the table, and how many times as fast kerasllm is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Medians of the repeats, lowest and greatest in brackets")
    columns = ["work", "library", "backend", "precision"]
    for column in [*columns, *("tokens/s", "ms", "GFLOP/s", "MFU", "MB", "first (s)")]:
        table.add_column(column, justify="left" if column in columns else "right", no_wrap=column != "work")
    for result in measured:
        speed = result["tokens_per_second"]
        ends = f" ({speed['lowest']:,.0f}-{speed['greatest']:,.0f})" if len(result["runs"]) > 1 else ""
        table.add_row(
            *describe(result),
            result["backend"],
            result["precision"].removeprefix("mixed_"),
            f"{speed['median']:,.0f}{ends}",
            f"{1e3 * result['step_seconds']:,.1f}",
            f"{result['flops_per_second'] / 1e9:,.0f}" if "mfu" in result else "",
            f"{100 * result['mfu']:.0f} %" if "mfu" in result else "",
            f"{result['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in result else "",
            f"{result['first_seconds']:.1f}",
        )
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for line in (*comparisons(measured), *profiles(measured)):
        console.print(line, highlight=False)


def comparisons(measured: list[dict[str, Any]]) -> Iterator[str]:
    """Yields lines that say how many times as fast as each other library kerasllm is.

    For training and generation each library's best precision counts, on the same backend and on its best one.
    """
    best: dict[str, dict[str, dict[str, float]]] = {}
    for result in measured:
        title, library = describe(result)
        speed = result["tokens_per_second"]["median"]
        found = {f"{place}, best precision": speed for place in (result["backend"], "best backend")}
        if result["work"] == "input":
            found = {"all": result["bytes_per_second"], "tokenizing": result["tokenizing_bytes_per_second"]}
        for place, speed in found.items():
            speeds = best.setdefault(title, {}).setdefault(place, {})
            speeds[library] = max(speeds.get(library, 0.0), speed)
    for title, places in best.items():
        for place, speeds in places.items():
            others = [other for other in speeds if not other.startswith("kerasllm")]
            if others and "kerasllm" in speeds:
                shown = ", ".join(f"{speeds['kerasllm'] / speeds[other]:.2f} x {other}" for other in others)
                yield f"{title}, {place}: kerasllm = {shown}"


def profiles(measured: list[dict[str, Any]]) -> Iterator[str]:
    """Yields lines that name the functions with most time of their own, for works that are profiled."""
    for result in measured:
        parts = result["runs"][0].get("largest", []) if "runs" in result else []
        if parts:
            title, library = describe(result)
            yield f"{title}, {library} on {result['backend']}: ms a step, slowed down by the profiler"
        for place, milliseconds in parts:
            yield f"{milliseconds:8.3f}  {place}"


def draw(measured: list[dict[str, Any]], path: Path) -> None:
    """Draws the tokens per second of all works, and the memory that a GPT's training takes."""
    panels: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}

    def add(heading: str, result: dict[str, Any], *bar: float) -> None:
        series = describe(result)[1] + (" bfloat16" if result["precision"] == "mixed_bfloat16" else "")
        median, lowest, greatest = bar
        groups = panels.setdefault(heading, {}).setdefault(result["backend"], {})
        groups[series] = (median, lowest, greatest)

    for result in measured:
        title, _ = describe(result)
        add(f"{title} (tokens/s)", result, *result["tokens_per_second"].values())
        if result["work"] == "gpt":
            sizes = [run["peak_bytes"] / 1e6 for run in result["runs"]]
            add(f"{title} (peak MB)", result, statistics.median(sizes), min(sizes), max(sizes))
    if panels:
        where = machine()
        plot_bars(panels, path, f"{where['processor']}, {where['cores']} cores")
