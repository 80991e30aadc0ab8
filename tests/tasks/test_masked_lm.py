"""Evaluation batch by batch against one computation over everything, in NumPy."""

import keras
import numpy as np
import pytest

from kerasllm import BertConfig, BertPretraining
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.training.optimization.optimizers import adamw

VOCABULARY, LENGTH, SLOTS = 30, 12, 3


def make_model(objectives, normalized_weights=False):
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": LENGTH}
    config = BertConfig(vocabulary_size=VOCABULARY, initializer_range=0.3, **shape)
    model = BertPretraining(config, objectives=objectives, seed=4)
    MaskedLanguageModeling().compile(model, adamw(1e-3), normalized_weights=normalized_weights)
    return model


def make_batches(objectives, rows=10, size=4):
    """Three batches of four; the last holds two real rows, the others weigh nothing. Rows differ in slots."""
    random = np.random.default_rng(1)
    count = -(-rows // size) * size
    real = (np.arange(count) < rows).astype("float32")
    slots = (np.arange(SLOTS) < random.integers(0, SLOTS + 1, count)[:, None]).astype("float32")
    inputs = {
        "token_ids": random.integers(5, VOCABULARY, (count, LENGTH)).astype("int32"),
        "segment_ids": np.repeat((np.arange(LENGTH) > 5).astype("int32")[None], count, 0),
        "padding_mask": (np.arange(LENGTH) < random.integers(6, LENGTH + 1, count)[:, None]).astype("int32"),
        "masked_positions": np.sort(random.integers(1, 6, (count, SLOTS))).astype("int32"),
    }
    labels = {
        "masked_lm": random.integers(5, VOCABULARY, (count, SLOTS)).astype("int32"),
        "next_sentence": random.integers(0, 2, count).astype("int32"),
    }
    weights = {"masked_lm": slots * real[:, None], "next_sentence": real}
    labels, weights = ({name: group[name] for name in objectives} for group in (labels, weights))
    groups = (inputs, labels, weights)
    batches = [
        tuple({name: array[at : at + size] for name, array in group.items()} for group in groups)
        for at in range(0, count, size)
    ]
    return groups, batches


def expected(model, groups):
    """Every token, and every pair, weighs the same, whichever batch it is in."""
    inputs, labels, weights = groups
    outputs = model(inputs)
    figures = {"loss": 0.0}
    for name in labels:
        logits = np.asarray(keras.ops.convert_to_numpy(outputs[name]), "float64")
        shifted = logits - logits.max(-1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        losses = -np.take_along_axis(log_probabilities, labels[name][..., None], -1)[..., 0]
        total = weights[name].sum()
        figures[f"{name}_loss"] = (losses * weights[name]).sum() / total
        figures[f"{name}_accuracy"] = ((logits.argmax(-1) == labels[name]) * weights[name]).sum() / total
        figures["loss"] += figures[f"{name}_loss"]
    if "masked_lm" in labels:
        figures["perplexity"] = np.exp(figures["masked_lm_loss"])
    return figures


@pytest.mark.parametrize("normalized_weights", [False, True])
@pytest.mark.parametrize(
    "objectives", [("masked_lm", "next_sentence"), ("masked_lm",), ("next_sentence",)], ids="+".join
)
def test_evaluation_equals_one_big_batch(objectives, normalized_weights):
    model = make_model(objectives, normalized_weights)
    groups, batches = make_batches(objectives)
    assert len({batch[2][objectives[0]].sum() for batch in batches}) > 1  # a mean of means would be wrong
    figures = MaskedLanguageModeling().evaluate(model, batches)
    wanted = expected(model, groups)
    assert figures.keys() == wanted.keys()
    for name, value in wanted.items():
        assert figures[name] == pytest.approx(value, rel=1e-5), name


def test_evaluation_changes_nothing():
    model = make_model(("masked_lm", "next_sentence"))
    _, batches = make_batches(("masked_lm", "next_sentence"))
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in model.variables]
    first = MaskedLanguageModeling().evaluate(model, batches)
    assert MaskedLanguageModeling().evaluate(model, batches) == first
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
