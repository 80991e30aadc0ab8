"""Draws search.png: the figure against the trial, the importance of each setting, and a slice along each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.search.outcomes import Trial
from kerasllm.search.recipe import as_text
from kerasllm.search.space import Choices, Interval, Space
from kerasllm.training.run.drawing import COLORS, make_plain, new_figure, save

_COMPLETE, _PRUNED, _BEST, _FAILED = COLORS[0], COLORS[5], COLORS[2], COLORS[4]
_SLICES_A_ROW = 3


def plot_search(
    trials: Sequence[Trial],
    best: Trial,
    space: Space,
    importances: Mapping[str, float],
    *,
    metric: str,
    less_is_better: bool,
    path: Path,
    title: str,
) -> None:
    """Draws the trials of a search.

    Args:
        trials: the trials, by number.
        best: the one that was chosen.
        space: the settings that were searched.
        importances: the share of each setting in the variation of the figure; empty if unknown.
        metric: the figure that decided.
        less_is_better: whether less of it is better.
        path: the PNG file, which is written whole or not at all.
        title: the title of the picture.

    Raises:
        OSError: the file cannot be written.
    """
    rows = -(-len(space) // _SLICES_A_ROW)
    figure = new_figure(11, 3.9 + 2.9 * rows, title)
    grid = figure.add_gridspec(1 + rows, _SLICES_A_ROW, height_ratios=[1.2, *[1] * rows])
    _draw_history(figure.add_subplot(grid[0, :2]), trials, best, metric, less_is_better)
    _draw_importances(figure.add_subplot(grid[0, 2]), space, importances)
    limits = _limits([trial.value for trial in trials if trial.value is not None])
    for number, (name, values) in enumerate(space.items()):
        row, column = divmod(number, _SLICES_A_ROW)
        axis = figure.add_subplot(grid[1 + row, column])
        _draw_slice(axis, name, values, trials, best)
        if not column:
            axis.set_ylabel(metric, fontsize=9)
        axis.set_ylim(*limits)
    _add_legend(figure, trials)
    save(figure, path)


def _draw_history(axis: Any, trials: Sequence[Trial], best: Trial, metric: str, less_is_better: bool) -> None:
    """Draws the figure of each trial, and the best so far as a line."""
    numbers = {trial.name: number for number, trial in enumerate(trials, 1)}
    _draw_points(axis, [(numbers[trial.name], trial) for trial in trials], best)
    values = [trial.value if trial.state == "complete" else np.nan for trial in trials]
    accumulate = np.fmin.accumulate if less_is_better else np.fmax.accumulate
    so_far = accumulate(np.array(values, np.float64))
    axis.step(range(1, len(trials) + 1), so_far, where="post", color=_COMPLETE, linewidth=1.2, alpha=0.6)
    axis.set_ylim(*_limits([trial.value for trial in trials if trial.value is not None]))
    axis.set_xlim(0.5, len(trials) + 0.5)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.set_xlabel("trial", fontsize=9)
    axis.set_title(f"{metric} (line: the best so far)", fontsize=10)
    make_plain(axis)


def _draw_importances(axis: Any, space: Space, importances: Mapping[str, float]) -> None:
    """Draws a bar for each setting, the most important one on top."""
    axis.set_title("importance", fontsize=10)
    if not importances:
        axis.text(0.5, 0.5, "too few trials\nto tell", ha="center", va="center", fontsize=9, color=_PRUNED)
        axis.set_axis_off()
        return
    names = sorted(space, key=lambda name: importances.get(name, 0.0))
    shares = [importances.get(name, 0.0) for name in names]
    axis.barh(range(len(names)), shares, 0.6, color=_COMPLETE, alpha=0.75)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    for place, share in enumerate(shares):
        axis.annotate(
            f"{share:.2f}", (share, place), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axis.set_xlim(0, 1.15 * max(shares))
    axis.tick_params(axis="y", length=0)
    make_plain(axis, "x")


def _draw_slice(
    axis: Any, name: str, values: Choices | Interval, trials: Sequence[Trial], best: Trial
) -> None:
    """Draws the figure of each trial against the value of one setting."""
    tried = [trial for trial in trials if trial.settings]
    if isinstance(values, Choices):
        places: dict[Any, int] = {value: place for place, value in enumerate(values.values)}
        points = [(float(places[trial.settings[name]]), trial) for trial in tried]
        axis.set_xticks(range(len(places)), [as_text(value) for value in places])
        axis.set_xlim(-0.5, len(places) - 0.5)
    else:
        points = [(trial.settings[name], trial) for trial in tried]
        if values.logarithmic:
            axis.set_xscale("log")
            axis.set_xlim(values.low / 1.15, values.high * 1.15)
        else:
            margin = 0.04 * (values.high - values.low)
            axis.set_xlim(values.low - margin, values.high + margin)
    _draw_points(axis, points, best)
    axis.set_title(name, fontsize=10)
    make_plain(axis)


def _draw_points(axis: Any, points: Sequence[tuple[float, Trial]], best: Trial) -> None:
    """Draws a mark for each trial, at the bottom for those that have failed."""
    for state, color, face in (("complete", _COMPLETE, _COMPLETE), ("pruned", _PRUNED, "none")):
        drawn = [
            (place, trial.value)
            for place, trial in points
            if trial.state == state and trial.value is not None
        ]
        if drawn:
            axis.plot(
                *zip(*drawn, strict=True), "o", color=color, markerfacecolor=face, markersize=5, alpha=0.8
            )
    failed = [place for place, trial in points if trial.state == "failed"]
    axis.plot(
        *(failed, np.full(len(failed), 0.03), "x"),
        transform=axis.get_xaxis_transform(),
        color=_FAILED,
        markersize=5,
    )
    for place, trial in points:
        if trial.name == best.name:
            axis.plot(place, trial.value, "*", color=_BEST, markersize=13, zorder=4)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the axis of the figures."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _add_legend(figure: Any, trials: Sequence[Trial]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        ("complete", "o", _COMPLETE, _COMPLETE, "complete"),
        ("pruned", "o", _PRUNED, "none", "stopped early, last figure"),
        ("failed", "x", _FAILED, _FAILED, "failed"),
    ]
    states = {trial.state for trial in trials}
    handles = [
        Line2D([], [], marker=mark, color=color, markerfacecolor=face, linestyle="", markersize=5, label=text)
        for state, mark, color, face, text in marks
        if state in states
    ]
    handles.append(Line2D([], [], marker="*", color=_BEST, linestyle="", markersize=11, label="best"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
