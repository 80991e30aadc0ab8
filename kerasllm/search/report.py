"""What a search ends with: tables for the terminal and results.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kerasllm.search.outcomes import Trial
from kerasllm.search.recipe import as_text
from kerasllm.search.repeats import PARTS

_WIDTH_WITHOUT_TERMINAL = 160  # columns, so that a file gets whole rows


def print_tables(
    trials: Sequence[Trial], best: Trial, metric: str, repeats: Mapping[str, Mapping[str, Any]]
) -> None:
    """Prints the trials, the best of them in bold, and the figures of the repeats.

    Args:
        trials: the trials.
        best: the one that was chosen.
        metric: the figure that decided.
        repeats: the result of `Repeats.figures`.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("trial", "", metric, *best.settings, "seconds"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        settings = [as_text(trial.settings[name]) if trial.settings else "" for name in best.settings]
        seconds = "" if trial.seconds is None else f"{trial.seconds:.0f}"
        state = "best" if trial.name == best.name else trial.state
        row = (trial.name, state, value, *settings, seconds)
        table.add_row(*row, style="bold" if trial.name == best.name else None)
    console.print(table)
    if any(group["seeds"] for group in repeats.values()):
        console.print(_repeats_table(repeats))


def _repeats_table(repeats: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns the table of the figures over the seeds: one row for each figure, one column for each group."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("mean ± spread")
    for name, group in repeats.items():
        table.add_column(f"{name}, seeds {', '.join(map(str, group['seeds'])) or 'none'}", justify="right")
    for part in PARTS:
        names = dict.fromkeys(name for group in repeats.values() for name in group[part])
        for name in names:
            cells = [group[part].get(name) for group in repeats.values()]
            table.add_row(f"{part}.{name}", *(_mean(cell) for cell in cells))
    return table


def _mean(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    spread = "" if figure["spread"] is None else f" ± {figure['spread']:.4f}"
    return f"{figure['mean']:.4f}{spread}"


def results(
    trials: Sequence[Trial],
    best: Trial,
    metric: str,
    importances: Mapping[str, float],
    repeats: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns the content of results.json.

    Args:
        trials: the trials.
        best: the one that was chosen.
        metric: the figure that decided.
        importances: the share of each setting in the variation of the figure.
        repeats: the result of `Repeats.figures`.
    """
    return {
        "metric": metric,
        "best": dataclasses.asdict(best),
        "importances": dict(importances),
        "repeats": repeats,
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }
