"""Draws pictures of results: the curves of a run, a comparison of accuracies, and grouped bars."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerasllm.files.atomic import replacing

_COLOURS = ("#1f5fa8", "#d1601f", "#2f8f5b", "#8a4fa3", "#b8323f", "#6b6b6b", "#c9a227")
_NOT_SHOWN = {"step", "learning_rate", "tokens_per_second", "gradient_norm", "skipped", "validation_tokens"}
_PREFIX = "validation_"


def plot_curves(lines: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draws training and validation loss in nats against the step, and other metrics in panels below.

    Args:
        lines: the result of `read_metrics`; nothing is drawn if it is empty.
        path: the PNG file, which is written whole or not at all.
        title: name of the run.
    """
    names = list(dict.fromkeys(name for line in lines for name in line))
    figures = [
        n
        for n in names
        if n not in _NOT_SHOWN and any(isinstance(line.get(n), int | float) for line in lines)
    ]
    if not figures:
        return
    # The object interface needs no global state and no window system, whatever the user's matplotlib settings.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = [name for name in figures if name.removeprefix(_PREFIX) == "loss"]
    panels = [(losses, "loss (nats)"), *_other_panels([name for name in figures if name not in losses])]
    panels = [(shown, label) for shown, label in panels if shown]
    figure = Figure(figsize=(8, 1.2 + 3.4 * len(panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (shown, label) in zip(axes, panels, strict=True):
        bases = list(dict.fromkeys(name.removeprefix(_PREFIX) for name in shown))
        for name in shown:
            points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
            validation = name.startswith(_PREFIX)
            axis.plot(
                *zip(*points, strict=True),
                color=_COLOURS[
                    (1 if validation and len(bases) == 1 else bases.index(name.removeprefix(_PREFIX))) % 6
                ],
                linestyle="--" if validation and len(bases) > 1 else "-",
                linewidth=1.5,
                marker="o" if validation or len(points) == 1 else "",
                markersize=3.5,
                label=_label(name, loss=label.startswith("loss")),
            )
        axis.set_ylabel(label)
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.margins(x=0.02)
        axis.legend(frameon=False, fontsize=9)
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, fontsize=12, parse_math=False)  # a name may hold dollars
    _save(figure, path)


def plot_comparison(tasks: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draws, for each task, the accuracies of each arm as points and their mean as a bar.

    Args:
        tasks: accuracies by task and arm.
        path: the PNG file, which is written whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 2.2 * len(tasks), 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    arms = list(next(iter(tasks.values())))
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        for place, accuracies in enumerate(task[arm] for task in tasks.values()):
            at = place + (number - (len(arms) - 1) / 2) * width
            mean = sum(accuracies) / len(accuracies)
            label = arm if place == 0 else None
            axis.bar(at, mean, 0.92 * width, color=_COLOURS[number], alpha=0.75, label=label)
            spread = [at + width * 0.18 * (i - (len(accuracies) - 1) / 2) for i in range(len(accuracies))]
            axis.plot(spread, accuracies, "o", color="#222222", markersize=3.5)
            top = max(*accuracies, mean)
            axis.annotate(
                f"{mean:.3f}", (at, top), (0, 5), textcoords="offset points", ha="center", fontsize=9
            )
    axis.set_xticks(range(len(tasks)), [name.replace("_", " ") for name in tasks])
    axis.set_ylabel("test accuracy")
    axis.set_ylim(0, 1)
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="upper left", ncols=len(arms))
    figure.suptitle("The same fine-tuning, pretrained and from scratch", fontsize=12)
    _save(figure, path)


Bar = tuple[float, float, float]


def plot_bars(panels: Mapping[str, Mapping[str, Mapping[str, Bar]]], path: Path, title: str) -> None:
    """Draws panels of grouped bars, each bar with its range.

    Args:
        panels: median, lowest and greatest value of each bar, by title of the panel, name of the group and series.
            A series named like another one with " bfloat16" at the end has the same color, hatched.
        path: the PNG file, which is written whole or not at all.
        title: title of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7 * columns, 0.9 + 3.3 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
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
                    color=_COLOURS[bases.index(name.removesuffix(" bfloat16")) % len(_COLOURS)],
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
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
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
    figure.suptitle(title, fontsize=12)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path, sync=False) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # such as a Chinese title
        figure.savefig(temporary, format="png")


def _other_panels(names: list[str]) -> list[tuple[list[str], str]]:
    """Returns the panels of other figures; losses share one, as do fractions, and perplexities have their own."""
    losses = [name for name in names if name.endswith("loss")]
    perplexities = [name for name in names if name.endswith("perplexity")]
    rest = [name for name in names if name not in losses and name not in perplexities]
    return [(rest, "metric"), (losses, "loss (nats), by part"), (perplexities, "perplexity")]


def _label(name: str, loss: bool) -> str:
    words = name.removeprefix(_PREFIX).replace("_", " ")
    if loss:
        words = words.removesuffix("loss").strip()
    return f"{words} {'validation' if name.startswith(_PREFIX) else 'training'}".strip()
