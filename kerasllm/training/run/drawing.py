"""What all pictures of results share: the colors, a figure without a window system, plain axes, and the file."""

import warnings
from pathlib import Path
from typing import Any

from kerasllm.files.atomic import replacing

DPI = 110
"""Pixels per inch. A picture of 10 inches is 1,100 pixels high, which fits on a screen."""

COLORS = ("#1f5fa8", "#d1601f", "#2f8f5b", "#8a4fa3", "#b8323f", "#6b6b6b", "#c9a227")
"""The colors of series, in their order."""


def new_figure(width: float, height: float, title: str) -> Any:
    """Returns an empty matplotlib figure with a title.

    Args:
        width: in inches.
        height: in inches.
        title: the title of the picture, in which dollars are plain characters.
    """
    # The object interface needs no global state and no window system, whatever the user's matplotlib settings.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def make_plain(axis: Any, grid: str = "both") -> None:
    """Removes the frame's upper and right side and draws a light grid behind the data.

    Args:
        axis: a matplotlib axis.
        grid: the axis that the grid lines belong to: "x", "y" or "both".
    """
    axis.grid(axis=grid, color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Writes a figure as a PNG file, whole or not at all.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
    with replacing(path, sync=False) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # such as a Chinese title
        figure.savefig(temporary, format="png")
