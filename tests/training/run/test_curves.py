"""The picture of a run, by what matplotlib is told to draw and by the size of the file."""

import math

import numpy as np
import pytest

from kerasllm.training.run import curves
from kerasllm.training.run.curves import BEST, TRAINING, VALIDATION, smoothed


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Returns the figure of some lines and its height in pixels; None and 0 if nothing is drawn."""
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))

    def run(lines, best_step=0, title="run"):
        curves.plot_curves(lines, tmp_path / "curves.png", title, best_step)
        return (figures[-1], figures[-1].get_figheight() * figures[-1].dpi) if figures else (None, 0)

    return run


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def pretraining(points, validated=()):
    """Lines of a pretraining, whose figures have nothing but their names in common with a real one."""
    lines = []
    for step in range(1, points + 1):
        line = {"step": step, "gradient_norm": 1.0, "loss": 9.0 / step + 1, "learning_rate": 1e-4}
        parts = ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy")
        line |= dict.fromkeys(parts, 0.5)
        if step in validated:
            held_out = {name: value for name, value in line.items() if name in ("loss", *parts)}
            line |= {f"validation_{name}": value for name, value in held_out.items()}
            line |= {"validation_perplexity": math.exp(0.5)}
        lines.append(line)
    return lines


def test_each_figure_has_its_panel_and_each_color_its_meaning(draw):
    figure, height = draw(pretraining(40, validated=(10, 20, 30, 40)), best_step=20)
    assert titles(figure) == [
        "loss (nats)",
        "masked-LM loss (nats)",
        "next-sentence loss (nats)",
        "masked-LM accuracy",
        "next-sentence accuracy",
        "learning rate",
        "gradient norm, before clipping",
    ]
    assert height <= 1100
    for axis in figure.axes[:5]:
        raw, smooth, validation, best_line, best = axis.lines
        assert [line.get_color() for line in axis.lines] == [TRAINING, TRAINING, VALIDATION, BEST, BEST]
        assert raw.get_alpha() < 0.5 < smooth.get_linewidth() > raw.get_linewidth()
        assert list(validation.get_xdata()) == [10, 20, 30, 40]
        assert list(best.get_xdata()) == [20] and list(best_line.get_xdata()) == [20, 20]
        assert axis.get_legend() is None  # the one legend stands below the panels
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["training (thick: moving mean)", "validation", "best validation: step 20, loss 1.45"]
    figure.draw_without_rendering()
    bottom = min(axis.get_tightbbox().y0 for axis in figure.axes)
    assert legend.get_window_extent().y1 <= bottom


def test_the_perplexity_is_a_scale_of_its_loss(draw):
    lines = [
        {"step": s, "loss": 3.0 - s / 10, "validation_perplexity": 9.0, "validation_tokens": 5}
        for s in (1, 2)
    ]
    figure, _ = draw(lines)
    assert titles(figure) == ["loss (nats)"]
    (scale,) = figure.axes[0].child_axes
    assert scale.get_ylabel() == "perplexity"
    assert scale.yaxis.get_major_formatter()(2.0, 0) == "7.389"


@pytest.mark.parametrize("points", [1, 5, 5000])
@pytest.mark.parametrize("validated", [True, False])
def test_any_number_of_points(draw, points, validated):
    lines = [{"step": s, "loss": 5.0 + math.sin(s), "gradient_norm": 2.0} for s in range(1, points + 1)]
    if validated:
        lines[-1] |= {"validation_loss": 5.5}
    figure, height = draw(lines, best_step=points if validated else 0)
    axis = figure.axes[0]
    assert 400 < height <= 1100
    assert axis.lines[0].get_marker() == ("o" if points < 3 else "None")
    assert len([line for line in axis.lines if line.get_color() == TRAINING]) == (2 if points == 5000 else 1)
    assert all(float(tick).is_integer() for tick in axis.get_xticks())
    assert len(figure.legends[0].get_texts()) == (3 if validated else 1)


def test_what_is_not_finite_is_a_gap_and_is_marked(draw):
    lines = [{"step": s, "loss": None if s in (3, 4) else 2.0} for s in range(1, 8)]
    figure, _ = draw(lines)
    curve, crosses = figure.axes[0].lines
    assert np.flatnonzero(np.isnan(curve.get_ydata())).tolist() == [2, 3]
    assert list(crosses.get_xdata()) == [3, 4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "not finite"]


def test_classification_and_regression(draw):
    names = ("loss", "accuracy", "f1", "f1_macro", "matthews", "examples")
    figure, height = draw([{"step": 1, **{f"validation_{name}": 0.5 for name in names}}])
    assert titles(figure) == [
        "loss (nats)",
        "accuracy",
        "F1",
        "F1, mean of the classes",
        "Matthews' correlation",
    ]
    assert height <= 1100
    names = ("loss", "mse", "pearson", "spearman")
    figure, _ = draw([{"step": 1, **{f"validation_{name}": 0.5 for name in names}}])
    assert titles(figure) == ["loss (squared error)", "Pearson's correlation", "Spearman's correlation"]


def test_many_metrics_fit_on_a_screen(draw):
    _, height = draw([{"step": s, "loss": 1.0, **{f"metric_{n}": 0.5 for n in range(20)}} for s in (1, 2)])
    assert height <= 1100


def test_a_spike_does_not_flatten_the_curve(draw):
    spike = [{"step": s, "loss": 1000.0 if s == 50 else 2.0 + s / 100} for s in range(1, 101)]
    assert draw(spike)[0].axes[0].get_yscale() == "log"
    assert draw(spike[:49])[0].axes[0].get_yscale() == "linear"
    below = [{"step": 1, "loss": -1.0}, {"step": 2, "loss": 900.0}, {"step": 3, "loss": 1.0}]
    assert draw(below)[0].axes[0].get_yscale() == "linear"


def test_titles_are_plain_text_and_nothing_is_no_picture(draw):
    figure, _ = draw([{"step": 1, "loss": 2.0}], title="数据 $x_{$ run")
    assert figure.get_suptitle() == "数据 $x_{$ run"


@pytest.mark.parametrize("lines", [[], [{"step": 1, "loss": None}], [{"step": 1, "learning_rate": 0.1}]])
def test_no_picture_of_nothing(draw, lines):
    assert draw(lines) == (None, 0)


def test_smoothing_by_hand():
    """Narrow on both sides at the beginning, on the right at the end; without what is not a number."""
    np.testing.assert_allclose(smoothed(np.array([9.0, 6.0, 3.0, 3.0, 6.0]), 1), [9, 6, 4, 4, 4.5])
    line = np.arange(30.0)
    np.testing.assert_allclose(smoothed(line, 5)[:25], line[:25])
    with_gap = smoothed(np.array([1.0, math.nan, 3.0, math.nan, math.nan, math.nan, 1.0]), 1)
    np.testing.assert_array_equal(with_gap, [1, 2, 3, 3, math.nan, 1, 1])
