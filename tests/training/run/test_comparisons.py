"""The quick start's picture, by what matplotlib is told to draw."""

import numpy as np

from kerasllm.training.run import comparisons


def test_what_the_picture_says(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(comparisons, "save", lambda figure, path: figures.append(figure))
    task = {
        **{"pretrained": {"test": [0.75, 0.85]}, "scratch": {"test": [0.5, 0.7]}},
        **{"chance": 0.55, "train_examples": 1000, "classes": 2},
    }
    arms = {"pretrained": "pretrained", "scratch": "from scratch"}
    comparisons.plot_comparison({"belong_together": task, "module": task}, arms, tmp_path / "picture.png")
    axis = figures[0].axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == [
        "belong together\n1,000 labels to learn from, 2 classes",
        "module\n1,000 labels to learn from, 2 classes",
    ]
    np.testing.assert_allclose([bar.get_height() for bar in axis.patches], [0.8, 0.6] * 2)
    dots = [sorted(line.get_ydata()) for line in axis.lines]
    assert dots == [[0.75, 0.85], [0.5, 0.7]] * 2
    chance = [segment for lines in axis.collections for segment in lines.get_segments()]
    assert all((segment[:, 1] == 0.55).all() for segment in chance) and len(chance) == 2
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        *("pretrained, mean", "from scratch, mean", "a fine-tuning, one for each seed"),
        "chance: always the most frequent label",
    ]
    figures[0].draw_without_rendering()
    box = figures[0].legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figures[0].bbox.x1
