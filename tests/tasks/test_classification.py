"""Figures against hand-computed ones, against definitions, and as strict JSON in the degenerate cases."""

import json
import math

import keras
import numpy as np
import pytest

from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.tasks import Classification, Regression, numbers
from kerasllm.tasks.classification import classification_figures, multi_label_figures
from kerasllm.tasks.ordered_outputs import predict_in_order
from kerasllm.tasks.regression import regression_figures


def strict_json(figures):
    return json.loads(json.dumps(figures, allow_nan=False))


def test_two_classes_by_hand():
    labels = np.array([1] * 6 + [0] * 4)
    predictions = np.array([1] * 4 + [0] * 2 + [1] * 1 + [0] * 3)  # 4 true and 1 false positives, 2 missed
    figures = classification_figures(labels, predictions, ("no", "yes"))
    assert figures["examples"] == 10 and figures["accuracy"] == pytest.approx(0.7)
    assert figures["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert figures["f1_macro"] == pytest.approx((8 / 11 + 6 / 9) / 2)
    assert figures["matthews"] == pytest.approx((4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5))
    assert figures["confusion"] == {"no": {"no": 3, "yes": 1}, "yes": {"no": 2, "yes": 4}}
    assert strict_json(figures) == figures


def test_three_classes_from_scores():
    scores = np.array([[3, 1, 0], [0, 2, 1], [0, 2, 1], [9, 0, 8.0]])
    figures = classification_figures(np.array([0, 1, 2, 2]), scores, ("a", "b", "c"))
    assert figures["accuracy"] == 0.5 and "f1" not in figures
    assert figures["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert figures["confusion"]["c"] == {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize("prediction", [0, 1])
def test_constant_predictions(prediction):
    figures = classification_figures(np.array([0, 1, 1]), np.full(3, prediction), ("a", "b"))
    assert figures["matthews"] == 0 and strict_json(figures) == figures
    assert figures["f1"] == pytest.approx(0.8 if prediction else 0)


def test_a_class_that_is_not_there_has_no_f1():
    figures = classification_figures(np.array([0, 0]), np.array([0, 0]), ("a", "b"))
    assert figures["accuracy"] == 1 and figures["f1"] is None and figures["f1_macro"] == 1
    strict_json(figures)
    assert classification_figures(np.zeros(0, int), np.zeros(0, int), ("a", "b"))["accuracy"] is None


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="shape"):
        classification_figures(np.zeros(3, int), np.zeros(4, int), ("a", "b"))
    with pytest.raises(ValueError, match="shape"):
        regression_figures(np.zeros(3), np.zeros((3, 1)))


def test_several_labels_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    predictions = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    figures = multi_label_figures(labels, predictions, ("a", "b", "c"))
    assert figures["examples"] == 4 and figures["accuracy"] == 0.5
    assert figures["f1_by_label"] == {"a": pytest.approx(4 / 5), "b": pytest.approx(2 / 3), "c": None}
    assert figures["f1_macro"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert strict_json(figures) == figures
    nothing = multi_label_figures(np.zeros((0, 2)), np.zeros((0, 2)), ("a", "b"))
    assert nothing["f1_micro"] is None and strict_json(nothing) == nothing
    with pytest.raises(ValueError, match="2 names"):
        multi_label_figures(labels, predictions, ("a", "b"))


def test_several_labels_as_scikit_learn_counts_them():
    from sklearn.metrics import accuracy_score, f1_score

    labels, predictions = np.random.default_rng(0).integers(0, 2, (2, 40, 5))
    figures = multi_label_figures(labels, predictions, "abcde")
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    for average in ("micro", "macro"):
        assert figures[f"f1_{average}"] == pytest.approx(f1_score(labels, predictions, average=average))


def test_regression_by_definition():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=50)
    predictions = labels**3 + 0.1 * rng.normal(size=50)
    figures = regression_figures(labels.astype(np.float32), predictions)
    assert figures["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1], abs=1e-6)
    ranks = [np.argsort(np.argsort(values)) for values in (labels, predictions)]
    assert figures["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert figures["mse"] == pytest.approx(((labels - predictions) ** 2).mean(), rel=1e-6)
    assert strict_json(figures) == figures


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([1, 2, 3], [2, 2, 2]), ([1, 1, 1], [1, 2, 3]), ([1], [1]), ([], []), ([1, 2], [np.nan, 1])],
)
def test_undefined_correlations_are_null(labels, predictions):
    figures = regression_figures(np.array(labels), np.array(predictions))
    assert figures["pearson"] is None and figures["spearman"] is None
    strict_json(figures)


def test_nearly_constant_predictions_do_not_warn():
    figures = regression_figures(np.arange(5.0), 1 + np.arange(5) * 2e-16)
    strict_json(figures)


class FirstToken(keras.Model):
    """Scores (or a number) that follow from the first token, so that their order can be seen."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def call(self, inputs):
        first = keras.ops.cast(inputs["token_ids"][:, :1], "float32")
        return first * keras.ops.arange(self.classes, dtype="float32") if self.classes else first[:, 0]


def batches_of(labels, **settings):
    lengths = np.arange(len(labels)) * 7 % 30 + 1
    encoded = EncodedTexts(
        token_ids=np.repeat(np.arange(1, len(labels) + 1, dtype=np.int32), lengths),
        segment_ids=np.zeros(lengths.sum(), np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sequence_length=32,
        pad_id=0,
        num_truncated=0,
    )
    return ClassificationBatches(encoded, np.asarray(labels), batch_size=4, buckets=(16, 32), **settings)


@pytest.mark.parametrize("settings", [{"shuffle": False}, {"shuffle": True}, {"gradient_accumulation": 3}])
def test_outputs_come_in_the_order_of_the_texts(settings):
    outputs = predict_in_order(FirstToken(0), batches_of(np.zeros(23), **settings))
    assert outputs.dtype == np.float32 and outputs.tolist() == list(range(1, 24))
    with pytest.raises(ValueError, match="left out"):
        predict_in_order(FirstToken(0), batches_of(np.zeros(23), start_step=1))


def test_a_classifier_on_a_data_set():
    labels = np.array([1, 1, 0, 1, 1, 0, 1])
    figures = Classification(("no", "yes")).evaluate(FirstToken(2), batches_of(labels, shuffle=False))
    scores = np.arange(1, 8) * 1.0  # of class 1, against 0
    expected = np.log1p(np.exp(scores)) - labels * scores
    assert figures["loss"] == pytest.approx(expected.mean())
    assert figures["accuracy"] == pytest.approx(5 / 7) and figures["confusion"]["no"]["yes"] == 2
    flat = numbers(figures)
    assert set(flat) == {"loss", "accuracy", "f1", "f1_macro", "matthews"}
    assert all(isinstance(value, float) for value in flat.values())
    assert math.isnan(numbers({"f1": None})["f1"])


def test_a_regressor_on_a_data_set():
    figures = Regression().evaluate(FirstToken(0), batches_of(np.arange(1, 10) * 2.0, shuffle=False))
    assert figures["pearson"] == pytest.approx(1) and figures["spearman"] == pytest.approx(1)
    assert figures["loss"] == figures["mse"] == pytest.approx((np.arange(1, 10) ** 2).mean())
