"""Draws the curves of a run: losses, metrics, learning rate and gradient norm against the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasllm.training.run.drawing import DPI, make_plain, new_figure, save

TRAINING, VALIDATION, BEST, NOT_FINITE, SETTING = "#1f5fa8", "#d1601f", "#2f8f5b", "#b8323f", "#555555"
"""The colors, each with one meaning in all panels."""

GREATEST_HEIGHT = 1080
"""Pixels."""

_PREFIX = "validation_"
_LAST_PANELS = ("learning_rate", "gradient_norm")
_NOT_SHOWN = {"step", "tokens_per_second", "skipped", "tokens", "examples", "perplexity", "mse"}
_TITLES = {
    "masked_lm_loss": "masked-LM loss (nats)",
    "masked_lm_accuracy": "masked-LM accuracy",
    "next_sentence_loss": "next-sentence loss (nats)",
    "next_sentence_accuracy": "next-sentence accuracy",
    "f1": "F1",
    "f1_macro": "F1, mean of the classes",
    "f1_micro": "F1, all labels together",
    "matthews": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "gradient_norm": "gradient norm, before clipping",
}
_FEWEST_SMOOTHED = 25
_MOST_MARKED = 60
_LOGARITHMIC_FROM = 20  # times the median


class Series(NamedTuple):
    """The values of one figure.

    Args:
        steps: int (points,).
        values: float (points,), NaN where the figure was not finite.
    """

    steps: np.ndarray
    values: np.ndarray


def plot_curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str, best_step: int = 0) -> None:
    """Draws the loss in a wide panel, and the parts of the loss, the metrics and the settings in one panel each.

    The perplexity is the exponential of a loss, and therefore a second scale of that loss's panel.

    Args:
        lines: the result of `read_metrics`; nothing is drawn if they hold no finite figure.
        path: the PNG file, which is written whole or not at all.
        title: name of the run.
        best_step: the step of the best validation, which is marked; 0 for none.

    Raises:
        OSError: the file cannot be written.
    """
    series = _series(lines)
    panels = _panels(series)
    if not any(name not in _LAST_PANELS for name in panels):
        return
    small = panels[1:]
    columns = len(small) if len(small) <= 3 else 2 if len(small) == 4 else 3
    rows = -(-len(small) // max(columns, 1))
    height = min(4.2 + 2.3 * rows, GREATEST_HEIGHT / DPI)
    figure = new_figure(11, height, title)
    grid = figure.add_gridspec(1 + rows, max(columns, 1), height_ratios=[1.5, *[1] * rows])
    steps = np.concatenate([each.steps for each in series.values()])
    first, last = int(steps.min()), int(steps.max())
    margin = max(0.015 * (last - first), 0.5)
    shown: dict[str, Any] = {}
    for number, name in enumerate(panels):
        row, column = divmod(number - 1, columns) if number else (-1, 0)
        axis = figure.add_subplot(grid[0, :] if not number else grid[row + 1, column])
        shown |= _draw(axis, name, series, best_step)
        axis.set_title(_title(name, series), fontsize=10)
        axis.set_xlim(first - margin, last + margin)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1, nbins=5 if number else 12)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        if number + columns >= len(panels):
            axis.set_xlabel("optimizer step", fontsize=9)
        make_plain(axis)
        if name == _loss_of_perplexity(series):
            _add_perplexity(axis)
    if best_step and BEST in shown:
        shown[BEST].set_label(_best_label(series, best_step))
    order = [handle for color in (TRAINING, VALIDATION, BEST, NOT_FINITE) if (handle := shown.get(color))]
    figure.legend(handles=order, loc="outside lower center", ncols=len(order), frameon=False, fontsize=9)
    save(figure, path)


def smoothed(values: np.ndarray, half: int) -> np.ndarray:
    """Returns the centered moving mean of a curve.

    At the beginning the window narrows on both sides alike, so that a steep curve is not shifted. At the end only its
    right side does, since the mean of few points would follow the noise.

    Args:
        values: float (points,); NaN is left out of the means.
        half: points on each side of the middle.
    """
    places = np.arange(len(values))
    starts = places - np.minimum(places, half)
    stops = np.minimum(places + np.minimum(places, half) + 1, len(values))
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    number = counts[stops] - counts[starts]
    total = sums[stops] - sums[starts]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Returns the figures that are finite somewhere, by name."""
    series = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        points = [(line["step"], line[name]) for line in lines if name in line]
        values = np.array([v if isinstance(v, int | float) else math.nan for _, v in points], np.float64)
        values[~np.isfinite(values)] = math.nan
        if name != "step" and np.isfinite(values).any():
            series[name] = Series(np.array([step for step, _ in points]), values)
    return series


def _panels(series: Mapping[str, Series]) -> list[str]:
    """Returns the names of the panels: the loss, its parts, the metrics, the learning rate and the gradient norm."""
    names = list(dict.fromkeys(name.removeprefix(_PREFIX) for name in series))
    names = [name for name in names if name not in _NOT_SHOWN]
    last = [name for name in _LAST_PANELS if name in names]
    names = [name for name in names if name not in last]
    names.sort(key=lambda name: (name != "loss", not name.endswith("loss")))
    return names + last


def _draw(axis: Any, name: str, series: Mapping[str, Series], best_step: int) -> dict[str, Any]:
    """Draws one panel and returns a line for the legend for each color that it uses."""
    shown: dict[str, Any] = {}
    drawn = [series[each].values for each in (name, _PREFIX + name) if each in series]
    if _needs_logarithm(np.concatenate(drawn)):
        axis.set_yscale("log")
    if name in series:
        steps, values = series[name]
        color = SETTING if name == "learning_rate" else TRAINING
        half = len(values) // _FEWEST_SMOOTHED if color == TRAINING else 0
        if half:
            axis.plot(steps, values, color=color, linewidth=0.8, alpha=0.3)
            (line,) = axis.plot(steps, smoothed(values, half), color=color, linewidth=1.7)
        else:
            marker = "o" if np.isfinite(values).sum() < 3 else "None"
            (line,) = axis.plot(steps, values, color=color, linewidth=1.5, marker=marker, markersize=4)
        line.set_label("training (thick: moving mean)" if half else "training")
        shown[color] = line
        broken = steps[~np.isfinite(values)]
        if len(broken) and name == "loss":
            (shown[NOT_FINITE],) = axis.plot(
                *(broken, np.full(len(broken), 0.03), "x"),
                transform=axis.get_xaxis_transform(),
                color=NOT_FINITE,
                markersize=5,
                label="not finite",
            )
    if _PREFIX + name in series:
        steps, values = series[_PREFIX + name]
        marker = "o" if len(steps) <= _MOST_MARKED else ""
        (shown[VALIDATION],) = axis.plot(
            steps, values, color=VALIDATION, linewidth=1.5, marker=marker, markersize=3.5, label="validation"
        )
        best = values[steps == best_step]
        if len(best):
            axis.axvline(best_step, color=BEST, linewidth=0.9, linestyle=":")
            (shown[BEST],) = axis.plot(best_step, best[0], "*", color=BEST, markersize=11, zorder=4)
    return shown


def _needs_logarithm(values: np.ndarray) -> bool:
    """Returns whether a few large values would press the others onto the axis."""
    finite = values[np.isfinite(values)]
    return bool(finite.min() > 0 and finite.max() > _LOGARITHMIC_FROM * np.median(finite))


def _title(name: str, series: Mapping[str, Series]) -> str:
    if name == "loss":
        return "loss (squared error)" if _PREFIX + "mse" in series else "loss (nats)"
    return _TITLES.get(name, name.replace("_", " "))


def _loss_of_perplexity(series: Mapping[str, Series]) -> str | None:
    """Returns the name of the loss whose exponential the perplexity is, if there is one."""
    if not any(name.removeprefix(_PREFIX) == "perplexity" for name in series):
        return None
    parts = {name.removeprefix(_PREFIX) for name in series}
    return "masked_lm_loss" if "masked_lm_loss" in parts else "loss"


def _add_perplexity(axis: Any) -> None:
    """Adds a scale on the right that shows the perplexity of each tick of a loss."""
    right = axis.secondary_yaxis("right")
    right.yaxis.set_major_formatter(lambda loss, _: f"{math.exp(min(loss, 700.0)):,.4g}")
    right.set_ylabel("perplexity", fontsize=9)
    right.spines["right"].set_visible(False)
    right.tick_params(axis="y", length=0)


def _best_label(series: Mapping[str, Series], best_step: int) -> str:
    """Returns the legend's text for the best validation, with its loss if that is known."""
    loss = series.get(_PREFIX + "loss")
    at_best = [] if loss is None else loss.values[loss.steps == best_step]
    return f"best validation: step {best_step:,}" + (f", loss {at_best[0]:.4g}" if len(at_best) else "")
