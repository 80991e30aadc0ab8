"""Regression: the prediction of a number for each text or pair of texts.

Correlations are not means over batches, so the predictions are collected and evaluated together by SciPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kerasllm.models import BertRegressor
from kerasllm.tasks.base import PredictionSettings, Task, prediction_batches
from kerasllm.tasks.ordered_outputs import finite, predict_in_order


class Regression(Task):
    """The prediction of a number for each text."""

    name: ClassVar[str] = "regression"
    model_classes: ClassVar[tuple[type, ...]] = (BertRegressor,)
    monitors: ClassVar[tuple[str, ...]] = ("loss", "pearson", "spearman")
    heads: ClassVar[frozenset[str]] = frozenset({"classifier"})

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the squared error."""
        return {"loss": model.default_loss(reduction), "weighted_metrics": []}

    def evaluate(self, model: Any, batches: Any) -> dict[str, Any]:
        """Returns `loss`, the mean squared error, and the figures of `regression_figures`.

        Args:
            model: a model that returns numbers (batch,).
            batches: padded batches with labels, as `predict_in_order` takes them.
        """
        figures = regression_figures(batches.labels, predict_in_order(model, batches))
        return {"loss": figures["mse"], **figures}

    @classmethod
    def predict(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[tuple[str, ...]],
        settings: PredictionSettings,
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns the predicted number of each text, as `{"value"}`; see `Task.predict`."""
        batches = prediction_batches(tokenizer, texts, settings)
        values = predict_in_order(model, batches)
        return [{"value": float(value)} for value in values], batches.encoded.num_truncated

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns one line with the number and the text."""
        return [f"{prediction['value']:.4f}\t{prediction['text']}"]


def regression_figures(labels: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """Returns correlations and the mean squared error.

    Args:
        labels: numbers (examples,).
        predictions: numbers (examples,).

    Returns:
        `examples`; `pearson` and `spearman`, in [-1, 1], or None if labels or predictions are constant; and `mse`. All
        but `examples` are None if a prediction is not finite.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_squared_error

    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"labels of shape {labels.shape}, predictions of shape {predictions.shape}")
    pearson = spearman = mse = None
    if len(labels) and np.isfinite(predictions).all():
        mse = finite(mean_squared_error(labels, predictions))
        if np.ptp(labels) > 0 and np.ptp(predictions) > 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SciPy warns if the input is nearly constant
                pearson = finite(pearsonr(labels, predictions).statistic)
                spearman = finite(spearmanr(labels, predictions).statistic)
    return {"examples": len(labels), "pearson": pearson, "spearman": spearman, "mse": mse}
