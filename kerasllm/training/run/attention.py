"""Draws what an encoder-decoder attends to, see `kerasllm.tasks.attention_map`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerasllm.training.run.drawing import new_figure, save


def draw_attention(path: Path, weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draws a map of attention as a PNG file.

    Args:
        path: the file, which is written whole or not at all.
        weights: float (rows, columns), in [0, 1].
        rows: names of the rows, the target's tokens.
        columns: names of the columns, the source's tokens.
    """
    # At most as large as a screen; the names of a long text are small then.
    width, height = min(2.5 + 0.32 * len(columns), 16.0), min(2 + 0.27 * len(rows), 9.8)
    size = min(9.0, 60 * (height - 2) / len(rows), 60 * (width - 2.5) / len(columns))
    figure = new_figure(width, height, "attention to the source, last layer")
    axis = figure.subplots()
    image = axis.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=60, ha="left", parse_math=False)
    axis.set_yticks(range(len(rows)), rows, parse_math=False)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=size)
    axis.set_xlabel("source")
    axis.set_ylabel("target, as it is written")
    for side in axis.spines.values():
        side.set_visible(False)
    figure.colorbar(image, ax=axis, shrink=0.6, label="share of attention").outline.set_visible(False)
    save(figure, path)
