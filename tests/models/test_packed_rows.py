"""A packed sequence is computed as if it were alone in a row: scores, losses, and the update after ten steps."""

import keras
import numpy as np
import pytest

from kerasllm import (
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertPretraining,
    BertRegressor,
    SquaredErrorLoss,
    backend,
)
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.data.token_cache.store import TokenStore
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.tokenizers.wordpiece import SpecialTokens
from kerasllm.training.optimization.optimizers import adamw

SHAPE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 32}
CONFIG = BertConfig(vocabulary_size=40, dropout=0.0, initializer_range=0.2, **SHAPE)


def encoded(lengths):
    draw = np.random.default_rng(0)
    return EncodedTexts(
        token_ids=draw.integers(5, 40, sum(lengths)).astype(np.int32),
        segment_ids=np.concatenate([np.arange(n) >= n // 2 for n in lengths]).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sequence_length=32,
        pad_id=0,
        num_truncated=0,
    )


def alone(inputs, num_rows=None):
    """The sequences of packed rows, each in a row of its own, and the (row, slot) that each had.

    Empty rows make it `num_rows`: batches of one shape are compiled once.
    """
    found = []
    for row, ids in enumerate(inputs["sequence_ids"]):
        for slot in range(ids.max() + 1):
            found.append((row, slot, np.flatnonzero(ids == slot)))
    shape = (num_rows or len(found), inputs["token_ids"].shape[1])
    rows = {name: np.zeros(shape, np.int32) for name in ("token_ids", "segment_ids", "padding_mask")}
    for number, (row, _, columns) in enumerate(found):
        for name in ("token_ids", "segment_ids"):
            rows[name][number, : len(columns)] = inputs[name][row, columns]
        rows["padding_mask"][number, : len(columns)] = 1
    return rows, found


def test_every_token_and_pooled_output_as_if_alone():
    batches = PackedClassificationBatches(encoded([5, 9, 17, 3, 8, 12, 30]), None, batch_size=7)
    inputs = batches[0][0]
    rows, found = alone(inputs)
    assert len(found) == 7 and batches.rows_per_batch < 6
    model = BertBackbone(CONFIG, seed=0)
    packed, single = (
        {name: keras.ops.convert_to_numpy(value) for name, value in model(given).items()}
        for given in (inputs, rows)
    )
    for number, (row, slot, columns) in enumerate(found):
        expected = single["sequence_output"][number, : len(columns)]
        np.testing.assert_allclose(packed["sequence_output"][row, columns], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            packed["pooled_output"][row, slot], single["pooled_output"][number], rtol=0, atol=1e-5
        )
    # It does depend on who is told apart.
    mixed = model(inputs | {"sequence_ids": np.zeros_like(inputs["sequence_ids"])})
    assert np.abs(keras.ops.convert_to_numpy(mixed["pooled_output"]) - packed["pooled_output"]).max() > 1e-3


def trained(model, batches):
    losses = [float(model.train_on_batch(*batch)) for batch in batches]
    return losses, [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_ten_steps_packed_are_ten_steps_padded(task, uncompiled):
    draw = np.random.default_rng(1)
    lengths = draw.integers(3, 20, 40)
    labels = draw.integers(0, 3, 40) if task == "classes" else draw.normal(size=40).astype("float32")
    packed = [*PackedClassificationBatches(encoded(lengths), labels, batch_size=8, epochs=2)]
    padded = []
    for inputs, kinds, weights in packed:
        rows, found = alone(inputs, num_rows=8)
        places = tuple(np.array([(row, slot) for row, slot, _ in found]).T)
        missing = (0, 8 - len(found))
        padded.append((rows, np.pad(kinds[places], missing), np.pad(weights[places], missing)))
    results = []
    for batches in (packed, padded):
        if task == "classes":
            model = BertClassifier(CONFIG, num_classes=3, seed=0)
            loss = keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="mean_with_sample_weight"
            )
        else:
            model, loss = BertRegressor(CONFIG, seed=0), SquaredErrorLoss()
        model.compile(adamw(3e-3, clip_norm=1.0), loss, jit_compile=backend.jit_compile)
        results.append(trained(model, batches[:10]))
    (losses, weights), (expected_losses, expected) = results
    assert len(losses) == 10 and len(packed[0][0]["token_ids"]) < 8
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


def test_a_weight_of_zero_counts_for_nothing_in_a_regression():
    """Keras' own squared error takes the mean over the texts before it looks at the weights."""
    numbers = np.array([1.0, 2.0, 30.0], "float32")
    found = SquaredErrorLoss()(numbers, np.zeros(3, "float32"), sample_weight=np.array([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(2.5)
    assert float(SquaredErrorLoss(reduction="sum")(numbers[:2], np.zeros(2, "float32"))) == pytest.approx(5.0)


def pretraining_batches(**settings):
    draw = np.random.default_rng(2)
    sentences = draw.integers(2, 4, 60)  # of short documents, which would fill a third of a row
    lengths = draw.integers(2, 6, sentences.sum())
    ends = np.cumsum(lengths)
    store = TokenStore(
        tokens=draw.integers(5, 40, ends[-1]).astype(np.uint16),
        sentence_starts=ends - lengths,
        sentence_ends=ends,
        document_offsets=np.concatenate([[0], np.cumsum(sentences)]),
        vocabulary_size=40,
    )
    special = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
    settings = {"steps": 3, "batch_size": 4, "seed": 0, "sequence_length": 32} | settings
    return BertPretrainingBatches(store, special=special, **settings)


def test_pretraining_losses_of_packed_rows_are_those_of_the_pairs_alone(uncompiled):
    batches = pretraining_batches(packing=True)
    assert batches.mean_fill > 0.8 > 2 * pretraining_batches().mean_fill
    model = BertPretraining(CONFIG, seed=0)
    MaskedLanguageModeling().compile(model, adamw(1e-3), jit_compile=backend.jit_compile)
    for inputs, labels, weights in batches:
        logs = model.test_on_batch(inputs, labels, weights, return_dict=True)
        rows, found = alone(inputs, num_rows=24)
        slots = weights["masked_lm"].shape[1]
        given = rows | {"masked_positions": np.zeros((24, slots), np.int32)}
        words = np.zeros((24, slots), np.int32)
        counted = np.zeros((24, slots), np.float32)
        for number, (row, _, columns) in enumerate(found):
            own = np.flatnonzero(
                np.isin(inputs["masked_positions"][row], columns) & (weights["masked_lm"][row] > 0)
            )
            given["masked_positions"][number, : len(own)] = inputs["masked_positions"][row, own] - columns[0]
            words[number, : len(own)] = labels["masked_lm"][row, own]
            counted[number, : len(own)] = 1
        assert counted.sum() == weights["masked_lm"].sum() > 0
        assert len(found) == weights["next_sentence"].sum() > len(inputs["token_ids"])
        kinds, real = np.zeros(24, np.int32), np.zeros(24, np.float32)
        kinds[: len(found)] = [labels["next_sentence"][row, slot] for row, slot, _ in found]
        real[: len(found)] = 1
        expected = model.test_on_batch(
            given,
            {"masked_lm": words, "next_sentence": kinds},
            {"masked_lm": counted, "next_sentence": real},
            return_dict=True,
        )
        for name, value in logs.items():
            np.testing.assert_allclose(float(value), float(expected[name]), rtol=1e-5)
