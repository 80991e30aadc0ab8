"""A run started again is the run it was: nothing of the one before is left."""

from importlib import import_module

import keras
import numpy as np
import pytest

from kerasllm import BertClassifier, BertConfig
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.tokenizers.wordpiece import train_wordpiece

TEXTS = [f"the {colour} {thing}" for colour in ("red", "blue") for thing in ("ball", "cube", "cone", "box")]
LABELS = np.array([0] * 4 + [1] * 4, np.int32)


@pytest.fixture(scope="module")
def comparison(recipe):
    """The quick start's module."""
    recipe("quickstart")
    return import_module("quick_comparison")


@pytest.fixture(scope="module")
def setting(comparison):
    tokenizer = train_wordpiece(TEXTS, 60)
    encoded = encode_texts(tokenizer, [(text,) for text in TEXTS], 8)
    shape = {
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 16,
        "max_sequence_length": 8,
        "initializer_range": 0.2,
    }
    config = BertConfig(vocabulary_size=tokenizer.get_vocab_size(), **shape)

    def make_batches(seed, training=True):
        return ClassificationBatches(
            encoded,
            LABELS,
            batch_size=4,
            seed=seed,
            epochs=25 if training else 1,
            shuffle=training,
            buckets=None,
        )

    def start(seed):
        return BertClassifier(config, num_classes=2, seed=seed)

    return make_batches, start, comparison.RepeatedFineTuning(start(0), make_batches, 1e-2)


def weights(model):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]


def test_runs_are_independent_of_those_before(setting):
    """Weights, optimizer and dropout begin anew; another seed is another run."""
    _, start, tuner = setting
    first = weights(tuner.run(start(1), 1))
    other = weights(tuner.run(start(2), 2))
    again = weights(tuner.run(start(1), 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_it_learns_and_leaves_the_start_alone(setting, comparison):
    make_batches, start, tuner = setting
    initial = start(3)
    before = weights(initial)
    model = tuner.run(initial, 3)
    assert comparison.accuracy(model, make_batches(0, training=False)) == 1.0
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(initial), strict=True))


def test_accuracy_by_hand(setting, comparison):
    """A model that always says 1 is right on half, in whatever order the batches come."""
    make_batches, start, _ = setting
    model = start(0)
    model.classifier.kernel.assign(np.zeros(model.classifier.kernel.shape, "float32"))
    model.classifier.bias.assign(np.array([0.0, 1.0], "float32"))
    assert comparison.accuracy(model, make_batches(0, training=False)) == 0.5
