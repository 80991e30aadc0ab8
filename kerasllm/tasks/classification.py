"""Classification of texts or pairs of texts.

F1 and Matthews' correlation are not means over batches, so Keras' running metrics cannot compute them. Instead, the
predictions are collected in the order of the texts and evaluated together by scikit-learn. An undefined figure is None,
which is `null` in JSON, as JSON has no NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from kerasllm.models import BertClassifier, RecurrentClassifier
from kerasllm.tasks.base import PredictionSettings, Task, prediction_batches
from kerasllm.tasks.ordered_outputs import finite, predict_in_order


class Classification(Task):
    """Classification of each text into one of several classes, or by any number of labels.

    Args:
        label_names: the names of all classes, in the order of their ids.
        multi_label: whether a text may have several labels, or none; labels are then 0 or 1 (texts, classes).
    """

    name: ClassVar[str] = "classification"
    model_classes: ClassVar[tuple[type, ...]] = (BertClassifier, RecurrentClassifier)
    monitors: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "f1", "f1_macro", "matthews")
    heads: ClassVar[frozenset[str]] = frozenset({"classifier"})

    def __init__(self, label_names: Sequence[str], *, multi_label: bool = False) -> None:
        self.label_names, self.multi_label = tuple(label_names), multi_label
        if multi_label:
            self.monitors = ("loss", "accuracy", "f1_micro", "f1_macro")  # type: ignore[misc]

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the cross-entropy and the accuracy, of labels if there may be several."""
        if self.multi_label:  # a logit above 0 is a probability above a half
            accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
        else:
            accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        return {"loss": model.default_loss(reduction), "weighted_metrics": [accuracy]}

    def evaluate(self, model: Any, batches: Any) -> dict[str, Any]:
        """Returns `loss`, the mean cross-entropy in nats, and the figures of `classification_figures`.

        With `multi_label` these are the mean over the labels, too, and the figures of `multi_label_figures`.

        Args:
            model: a model that returns logits (batch, classes).
            batches: padded batches with labels, as `predict_in_order` takes them.
        """
        logits = predict_in_order(model, batches).astype(np.float64)
        if self.multi_label:
            losses = np.logaddexp(0.0, logits) - logits * batches.labels
            figures = multi_label_figures(batches.labels, logits > 0, self.label_names)
            return {"loss": finite(losses.mean()), **figures}
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(logits)), batches.labels]
        figures = classification_figures(batches.labels, logits, self.label_names)
        return {"loss": finite(losses.mean()), **figures}

    @classmethod
    def predict(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[tuple[str, ...]],
        settings: PredictionSettings,
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns `label` and `score` of each text, or `labels` and `scores` for a multi-label model.

        See `Task.predict`. With `settings.probabilities` there are `probabilities` of all classes by name.
        """
        batches = prediction_batches(tokenizer, texts, settings)
        logits = predict_in_order(model, batches).astype("float64")
        names = list(model.label_names or map(str, range(model.num_classes)))
        found: list[dict[str, Any]]
        if model.multi_label:
            scores = 0.5 + np.tanh(logits / 2) / 2  # the logistic function
            chosen = [[name for name, score in zip(names, row, strict=True) if score > 0.5] for row in scores]
            found = [
                {"labels": own, "scores": [float(row[names.index(name)]) for name in own]}
                for own, row in zip(chosen, scores, strict=True)
            ]
        else:
            scores = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            found = [{"label": names[row.argmax()], "score": float(row.max())} for row in scores]
        if settings.probabilities:
            for prediction, row in zip(found, scores, strict=True):
                prediction["probabilities"] = dict(zip(names, map(float, row), strict=True))
        return found, batches.encoded.num_truncated

    @classmethod
    def record(cls, text: tuple[str, ...], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `text`, `label` (or `labels`), `probability` and `probabilities`, rounded."""
        own = {"text": "\t".join(text)}
        rounded = {name: round(score, 4) for name, score in prediction["probabilities"].items()}
        if "labels" in prediction:
            return {**own, "labels": prediction["labels"], "probabilities": rounded}
        score = round(prediction["score"], 4)
        return {**own, "label": prediction["label"], "probability": score, "probabilities": rounded}

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns one line with the label, its probability and the text."""
        if "labels" in prediction:
            found = [f"{name} {prediction['probabilities'][name]:.4f}" for name in prediction["labels"]]
            return [f"{', '.join(found) or 'none'}\t{prediction['text']}"]
        return [f"{prediction['label']}\t{prediction['probability']:.4f}\t{prediction['text']}"]


def classification_figures(
    labels: np.ndarray, predictions: np.ndarray, label_names: Sequence[str]
) -> dict[str, Any]:
    """Returns accuracy, F1, Matthews' correlation and the confusion matrix.

    Args:
        labels: class ids (examples,).
        predictions: class ids (examples,), or scores (examples, classes), of which the highest gives the class.
        label_names: the names of all classes.

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
        warnings.simplefilter("ignore")  # there is no correlation with a single class
        matthews = matthews_corrcoef(labels, predictions)
    counts = confusion_matrix(labels, predictions, labels=ids)
    figures: dict[str, Any] = {
        "examples": len(labels),
        "accuracy": finite(accuracy_score(labels, predictions)),
    }
    if len(names) == 2:
        figures["f1"] = finite(f1[1])
    figures["f1_macro"] = finite(np.mean(f1[~np.isnan(f1)]))
    figures["matthews"] = finite(matthews)
    figures["confusion"] = {
        name: {other: int(counts[i, j]) for j, other in enumerate(names)} for i, name in enumerate(names)
    }
    return figures


def multi_label_figures(
    labels: np.ndarray, predictions: np.ndarray, label_names: Sequence[str]
) -> dict[str, Any]:
    """Returns accuracy and F1 of texts that may have several labels.

    Args:
        labels: 0 or 1 (examples, classes).
        predictions: 0 or 1 (examples, classes).
        label_names: the names of all labels.

    Returns:
        `examples`; `accuracy`, the share of the examples whose labels are all right; `f1_micro`, over all labels of all
        examples; `f1_macro`, the mean of the labels' F1; and `f1_by_label`, by name. F1 is None where a label neither
        occurs nor is predicted, and `f1_macro` leaves such labels out.
    """
    labels, predictions = np.asarray(labels) > 0.5, np.asarray(predictions) > 0.5
    names = list(label_names)
    if labels.shape != predictions.shape or labels.ndim != 2 or labels.shape[1] != len(names):
        raise ValueError(
            f"labels of shape {labels.shape}, predictions of shape {predictions.shape}, {len(names)} names"
        )
    hits = 2 * (labels & predictions).sum(axis=0)
    counts = labels.sum(axis=0) + predictions.sum(axis=0)
    f1 = [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)]
    defined = [value for value in f1 if value is not None]
    return {
        "examples": len(labels),
        "accuracy": float((labels == predictions).all(axis=1).mean()) if len(labels) else None,
        "f1_micro": float(hits.sum() / counts.sum()) if defined else None,
        "f1_macro": float(np.mean(defined)) if defined else None,
        "f1_by_label": dict(zip(names, f1, strict=True)),
    }
