"""Figures of classifiers and regressors, by scikit-learn, over the whole of a data set at once.

Correlations and F1 are no means over batches: Keras' running metrics cannot give them, so the predictions
are collected, in the order of the texts, and judged together. What is undefined (a correlation with
a constant) is None, which is `null` in JSON; NaN is not JSON.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.training.state.interruption import break_off_if_told


def classification_figures(
    labels: np.ndarray, predictions: np.ndarray, label_names: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, F1, Matthews' correlation and the confusion matrix.

    Args:
        labels: class ids (examples,).
        predictions: class ids (examples,), or scores (examples, classes), whose highest counts.
        label_names: of all classes.

    Returns:
        `examples`; `accuracy`; `f1` of class 1, the positive one, if there are two classes (as GLUE has it);
        `f1_macro`, the mean of the classes' F1; `matthews`, in [-1, 1], 0 where predictions are constant; and
        `confusion`, {label: {prediction: count}} by name. F1 is None where the class neither occurs nor is
        predicted, and `f1_macro` leaves such classes out.

    Reference: Matthews 1975, https://doi.org/10.1016/0005-2795(75)90109-9.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if predictions.ndim == 2:
        predictions = predictions.argmax(axis=1)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"labels of shape {labels.shape}, predictions of shape {predictions.shape}")
    names = list(label_names)
    if not len(labels):
        undefined = {
            "accuracy": None,
            **({"f1": None} if len(names) == 2 else {}),
            "f1_macro": None,
            "matthews": None,
        }
        return {"examples": 0, **undefined, "confusion": {}}
    ids = np.arange(len(names))
    f1 = f1_score(labels, predictions, labels=ids, average=None, zero_division=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class: no correlation
        matthews = matthews_corrcoef(labels, predictions)
    counts = confusion_matrix(labels, predictions, labels=ids)
    figures: dict[str, Any] = {
        "examples": len(labels),
        "accuracy": _finite(accuracy_score(labels, predictions)),
    }
    if len(names) == 2:
        figures["f1"] = _finite(f1[1])
    figures["f1_macro"] = _finite(np.mean(f1[~np.isnan(f1)]))
    figures["matthews"] = _finite(matthews)
    figures["confusion"] = {
        name: {other: int(counts[i, j]) for j, other in enumerate(names)} for i, name in enumerate(names)
    }
    return figures


def regression_figures(labels: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """Correlations and mean squared error.

    Args:
        labels: numbers (examples,).
        predictions: numbers (examples,).

    Returns:
        `examples`; `pearson` and `spearman`, in [-1, 1], None where either side is constant; `mse`, None
        where a prediction is not finite.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_squared_error

    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"labels of shape {labels.shape}, predictions of shape {predictions.shape}")
    pearson = spearman = mse = None
    if len(labels) and np.isfinite(predictions).all():
        mse = _finite(mean_squared_error(labels, predictions))
        if np.ptp(labels) > 0 and np.ptp(predictions) > 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nearly constant
                pearson = _finite(pearsonr(labels, predictions).statistic)
                spearman = _finite(spearmanr(labels, predictions).statistic)
    return {"examples": len(labels), "pearson": pearson, "spearman": spearman, "mse": mse}


def predict_in_order(model: Any, batches: ClassificationBatches) -> np.ndarray:
    """The model's outputs for all texts, float32 (texts, ...), in the order of the texts.

    Args:
        model: a classifier, which gives (batch, classes), or a regressor, which gives (batch,).
        batches: one epoch, from step 0; best with `shuffle=False`.
    """
    if batches.start_step:
        raise ValueError(f"the batches start at step {batches.start_step}: some texts would be left out")
    results: np.ndarray | None = None
    size = batches.batch_size
    for step in range(batches.steps_per_epoch):
        whole = batches.batch(step)[0]
        for part in range(batches.gradient_accumulation):
            break_off_if_told()
            texts = batches.order[step * batches.gradient_accumulation + part]
            inputs = {name: array[part * size : (part + 1) * size] for name, array in whole.items()}
            outputs = np.asarray(model.predict_on_batch(inputs)).astype(np.float32)
            if results is None:
                results = np.zeros((len(batches.encoded), *outputs.shape[1:]), np.float32)
            results[texts[texts >= 0]] = outputs[texts >= 0]
    assert results is not None  # there is no empty data set
    return results


def evaluate_classifier(
    model: Any, batches: ClassificationBatches, label_names: Sequence[str]
) -> dict[str, Any]:
    """All of `classification_figures`, and `loss`, the mean cross-entropy in nats, of a model.

    Args:
        model: gives logits (batch, classes).
        batches: see `predict_in_order`.
        label_names: of all classes.
    """
    logits = predict_in_order(model, batches).astype(np.float64)
    highest = logits.max(axis=1, keepdims=True)
    shifted = logits - highest
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(logits)), batches.labels]
    return {"loss": _finite(losses.mean()), **classification_figures(batches.labels, logits, label_names)}


def evaluate_regressor(model: Any, batches: ClassificationBatches) -> dict[str, Any]:
    """All of `regression_figures`, and `loss`, the mean squared error, of a model.

    Args:
        model: gives numbers (batch,).
        batches: see `predict_in_order`.
    """
    figures = regression_figures(batches.labels, predict_in_order(model, batches))
    return {"loss": figures["mse"], **figures}


def monitored(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are single numbers, undefined ones as NaN: for `Evaluation` and its log.

    Args:
        figures: of any function here.
    """
    return {
        name: math.nan if value is None else float(value)
        for name, value in figures.items()
        if name != "examples" and not isinstance(value, Mapping)
    }


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
