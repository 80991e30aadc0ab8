"""Draws comparisons: the accuracies of pretrained and fresh models, and grouped bars of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.training.run.drawing import COLORS, make_plain, new_figure, save


def plot_comparison(tasks: Mapping[str, Mapping[str, Any]], arms: Mapping[str, str], path: Path) -> None:
    """Draws, for each task, the test accuracies of each arm as dots, their mean as a bar, and the level of chance.

    Args:
        tasks: by name of the task, for each arm a mapping with `test`, the accuracy of each seed, and beside the arms
            `chance`, the accuracy of always giving the most frequent label, `train_examples` and `classes`.
        arms: the legend's text for each arm.
        path: the PNG file, which is written whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    figure = new_figure(
        max(2.0 + 2.4 * len(tasks), 6.4), 4.8, "The same fine-tuning, pretrained and from scratch"
    )
    axis = figure.subplots()
    width = 0.8 / len(arms)
    for place, task in enumerate(tasks.values()):
        for number, arm in enumerate(arms):
            accuracies = task[arm]["test"]
            mean = float(np.mean(accuracies))
            middle = place + width * (number - (len(arms) - 1) / 2)
            axis.bar(middle, mean, 0.92 * width, color=COLORS[number], alpha=0.75)
            spread = middle + 0.18 * width * (np.arange(len(accuracies)) - (len(accuracies) - 1) / 2)
            axis.plot(spread, accuracies, "o", color="#222222", markersize=3.5)
            top = (middle, max(*accuracies, mean))
            axis.annotate(f"{mean:.3f}", top, (0, 5), textcoords="offset points", ha="center", fontsize=9)
        axis.hlines(
            task["chance"], place - 0.45, place + 0.45, color=COLORS[4], linestyle="--", linewidth=1.3
        )
    names = [
        f"{name.replace('_', ' ')}\n{task['train_examples']:,} labels to learn from, {task['classes']} classes"
        for name, task in tasks.items()
    ]
    axis.set_xticks(range(len(tasks)), names, fontsize=9)
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("test accuracy")
    axis.set_ylim(0, 1.06)
    axis.set_yticks(np.linspace(0, 1, 6))
    make_plain(axis, "y")
    _add_legend(figure, arms)
    save(figure, path)


def _add_legend(figure: Any, arms: Mapping[str, str]) -> None:
    """Adds the legend of `plot_comparison` below the axis."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars = [Patch(color=COLORS[i], alpha=0.75, label=f"{text}, mean") for i, text in enumerate(arms.values())]
    dots = Line2D(
        [],
        [],
        color="#222222",
        marker="o",
        markersize=3.5,
        linestyle="",
        label="a fine-tuning, one for each seed",
    )
    chance = Line2D([], [], color=COLORS[4], linestyle="--", label="chance: always the most frequent label")
    figure.legend(
        handles=[*bars, dots, chance], loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )


Bar = tuple[float, float, float]


def plot_bars(panels: Mapping[str, Mapping[str, Mapping[str, Bar]]], path: Path, title: str) -> None:
    """Draws panels of grouped bars, each bar with its range.

    Args:
        panels: median, lowest and greatest value of each bar, by title of the panel, name of the group and series.
            A series named like another one with " bfloat16" at the end has the same color, hatched.
        path: the PNG file, which is written whole or not at all.
        title: title of the picture.
    """
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = new_figure(7 * columns, 0.9 + 3.3 * rows, title)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    series = list(
        dict.fromkeys(name for groups in panels.values() for bars in groups.values() for name in bars)
    )
    bases = list(dict.fromkeys(name.removesuffix(" bfloat16") for name in series))
    handles: dict[str, Any] = {}
    for axis, (heading, groups) in zip(cells, panels.items(), strict=False):
        places: list[float] = []
        left = 0.0
        for bars in groups.values():
            for number, name in enumerate(sorted(bars, key=series.index)):
                median, low, high = bars[name]
                bar = axis.bar(
                    left + number,
                    median,
                    0.9,
                    yerr=[[median - low], [high - median]],
                    error_kw={"ecolor": "#222222", "elinewidth": 1, "capsize": 3},
                    color=COLORS[bases.index(name.removesuffix(" bfloat16")) % len(COLORS)],
                    hatch="///" if name.endswith(" bfloat16") else None,
                    edgecolor="white",
                )
                handles.setdefault(name, bar)
                axis.annotate(
                    f"{median:,.0f}",
                    (left + number, high),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                )
            places.append(left + (len(bars) - 1) / 2)
            left += len(bars) + 1
        axis.set_xticks(places, list(groups))
        axis.tick_params(axis="x", length=0)
        axis.set_title(heading, fontsize=10)
        axis.margins(y=0.12)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        make_plain(axis, "y")
    for axis in cells[len(panels) :]:
        axis.set_visible(False)
    figure.legend(
        [handles[name] for name in series],
        series,
        loc="outside lower center",
        ncols=min(len(series), 2 * columns),
        frameon=False,
        fontsize=9,
    )
    save(figure, path)
