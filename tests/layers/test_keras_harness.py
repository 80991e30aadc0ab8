"""Keras' own test of a layer on every public layer: configuration, symbolic and real calls, training, precision."""

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

import kerasllm.layers
from kerasllm.layers import (
    ClassificationHead,
    MaskedLanguageModelHead,
    Pooler,
    TransformerDecoderBlock,
    TransformerEmbeddings,
    TransformerEncoderBlock,
)

HIDDEN = np.random.default_rng(0).standard_normal((2, 5, 8)).astype("float32")
TOKEN_IDS = np.arange(10, dtype="int32").reshape(2, 5)
TABLE = np.random.default_rng(1).standard_normal((11, 8)).astype("float32")
BLOCK = {"num_heads": 2, "intermediate_dim": 12, "dropout": 0.1, "seed": 0}

# The class, its arguments, its inputs, the shape of its output, and how many weights and seed generators it has.
CASES = [
    (
        TransformerEmbeddings,
        {"vocabulary_size": 11, "max_sequence_length": 6, "hidden_dim": 8, "dropout": 0.1, "seed": 0},
        {"input_data": TOKEN_IDS},
        (2, 5, 8),
        (5, 1),
    ),
    (TransformerEncoderBlock, BLOCK, {"input_data": HIDDEN}, (2, 5, 8), (12, 1)),
    (TransformerDecoderBlock, BLOCK, {"input_data": HIDDEN}, (2, 5, 8), (12, 1)),
    (Pooler, {"seed": 0}, {"input_data": HIDDEN}, (2, 8), (2, 0)),
    (
        MaskedLanguageModelHead,
        {"vocabulary_size": 11, "seed": 0},
        # Keras' checks of training and of precision call a layer with one input alone.
        {
            "input_data": HIDDEN,
            "call_kwargs": {"token_table": TABLE},
            "run_training_check": False,
            "run_mixed_precision_check": False,
        },
        (2, 5, 11),
        (5, 0),
    ),
    (
        ClassificationHead,
        {"num_outputs": 3, "dropout": 0.1, "seed": 0},
        {"input_data": HIDDEN[:, 0]},
        (2, 3),
        (2, 1),
    ),
]


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by Keras' test, to its own `fit`
@pytest.mark.parametrize(("layer", "settings", "inputs", "shape", "counts"), CASES)
def test_passes_keras_own_layer_test(layer, settings, inputs, shape, counts, uncompiled):
    TestCase().run_layer_test(
        layer,
        init_kwargs=settings,
        expected_output_shape=shape,
        expected_num_trainable_weights=counts[0],
        expected_num_seed_generators=counts[1],
        expected_num_losses=0,
        **inputs,
    )


def test_every_public_layer_is_tested():
    public = {getattr(kerasllm.layers, name) for name in kerasllm.layers.__all__}
    assert {each for each in public if issubclass(each, keras.layers.Layer)} == {case[0] for case in CASES}
