"""Rows, epochs, micro-batches and their weights; and `fit` on whatever backend is there."""

import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.batches.masked_lm import BertPretrainingBatches, assemble_rows
from kerasllm.errors import InputError
from kerasllm.losses import MaskedLanguageModelLoss, NextSentenceLoss

SPECIAL = SimpleNamespace(pad=0, unknown=1, cls=2, sep=3, mask=4)
VOCABULARY = 60


def corpus(num_documents=30, seed=0, longest=12):
    generator = np.random.default_rng(seed)
    sentences = generator.integers(2, longest + 1, num_documents)
    lengths = generator.integers(1, 15, sentences.sum())
    ends = np.cumsum(lengths)
    return SimpleNamespace(
        tokens=generator.integers(5, VOCABULARY, ends[-1]).astype(np.uint16),
        sentence_starts=ends - lengths,
        sentence_ends=ends,
        document_offsets=np.concatenate([[0], np.cumsum(sentences)]),
        vocabulary_size=VOCABULARY,
    )


def batches(store=None, **settings):
    settings = {
        "special": SPECIAL,
        "sequence_length": 32,
        "batch_size": 4,
        "steps": 50,
        "seed": 1,
        "continuation": np.arange(VOCABULARY) % 5 == 0,
        **settings,
    }
    return BertPretrainingBatches(corpus() if store is None else store, **settings)


def same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        assert all((left[name] == right[name]).all() for name in left)


def restored(batch):
    """The token ids before masking."""
    inputs, labels, weights = batch
    token_ids = inputs["token_ids"].copy()
    rows, slots = np.nonzero(weights["masked_lm"])
    token_ids[rows, inputs["masked_positions"][rows, slots]] = labels["masked_lm"][rows, slots]
    return token_ids


def test_a_row_by_hand():
    tokens = np.arange(100, 200, dtype=np.uint16)
    words, arrays = assemble_rows(
        tokens, np.array([[10, 50], [97, 97]]), np.array([[2, 3], [3, 0]], np.int32), 10, SPECIAL
    )
    assert arrays["token_ids"].tolist() == [
        [2, 110, 111, 3, 150, 151, 152, 3, 0, 0],
        [2, 197, 198, 199, 3, 0, 0, 0, 0, 0],
    ]
    assert arrays["segment_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 0, 0], [0] * 10]
    assert arrays["padding_mask"].tolist() == [[1] * 8 + [0] * 2, [1] * 5 + [0] * 5]
    assert words.tolist() == [
        [False, True, True, False, True, True, True, False, False, False],
        [False, True, True, True] + [False] * 6,
    ]
    assert all(array.dtype == np.int32 for array in arrays.values())


@pytest.mark.parametrize(
    ("objectives", "labels", "slots"),
    [
        (("masked_lm", "next_sentence"), ["masked_lm", "next_sentence"], 4),
        (("sentence_order", "masked_lm"), ["masked_lm", "next_sentence"], 4),
        (("masked_lm",), ["masked_lm"], 5),
        (("next_sentence",), ["next_sentence"], None),
    ],
)
def test_names_shapes_and_types(objectives, labels, slots):
    inputs, targets, weights = batches(objectives=objectives)[0]
    expected = {"token_ids": (4, 32), "segment_ids": (4, 32), "padding_mask": (4, 32)}
    if slots:
        expected["masked_positions"] = (4, slots)
    assert {name: array.shape for name, array in inputs.items()} == expected
    assert list(targets) == list(weights) == labels
    shapes = {"masked_lm": (4, slots), "next_sentence": (4,)}
    for name in labels:
        assert targets[name].shape == weights[name].shape == shapes[name]
        assert targets[name].dtype == np.int32 and weights[name].dtype == np.float32
    assert all(array.dtype == np.int32 for array in inputs.values())
    if "next_sentence" not in labels:
        assert not inputs["segment_ids"].any()


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_rows_are_what_the_plan_says(masking):
    store = corpus()
    made = batches(store, masking=masking, batch_size=16)
    text = store.tokens.tobytes()
    documents = np.repeat(np.arange(30), np.diff(store.document_offsets))
    for step in range(5):
        inputs, labels, _ = batch = made.batch(step)
        token_ids = restored(batch)
        assert not np.isin(labels["masked_lm"][batch[2]["masked_lm"] == 1], range(5)).any()
        for row, ids in enumerate(token_ids):
            real = ids[: inputs["padding_mask"][row].sum()]
            assert inputs["padding_mask"][row, : len(real)].all() and not ids[len(real) :].any()
            assert real[0] == SPECIAL.cls and real[-1] == SPECIAL.sep
            first, second = np.split(real[1:-1], np.flatnonzero(real[1:-1] == SPECIAL.sep))
            assert (inputs["segment_ids"][row] == 1).sum() == len(second)  # with its [SEP], without the first
            places = [text.find(part.astype(np.uint16).tobytes()) // 2 for part in (first, second[1:])]
            assert min(places) >= 0
            if len(first) > 5 and len(second) > 6:  # long enough to be found in one place only
                own = documents[np.searchsorted(store.sentence_ends, places, side="right")]
                assert (own[0] != own[1]) == labels["next_sentence"][row]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), order=st.permutations(list(range(12))), prefetch=st.integers(0, 3))
def test_a_batch_depends_on_seed_and_step_alone(seed, order, prefetch):
    in_order = batches(seed=seed, steps=12, prefetch=0, batch_size=20)
    expected = [in_order.batch(step) for step in range(12)]
    assert in_order.steps_per_epoch < 12  # several epochs
    mixed = batches(seed=seed, steps=12, prefetch=prefetch, batch_size=20)
    for step in order:
        same(mixed[step], expected[step])
    resumed = batches(seed=seed, steps=12, start_step=7, prefetch=prefetch, batch_size=20)
    assert len(resumed) == 5
    for index in range(5):
        same(resumed[index], expected[7 + index])


def test_each_epoch_is_cut_paired_and_shuffled_anew():
    made = batches(steps=200)
    epochs = [
        [restored(made.batch(epoch * made.steps_per_epoch + step)) for step in range(made.steps_per_epoch)]
        for epoch in (0, 1)
    ]
    rows = [{row.tobytes() for batch in epoch for row in batch} for epoch in epochs]
    assert len(rows[0] & rows[1]) < 0.5 * len(rows[0])
    other = batches(seed=2).batch(0)[0]["token_ids"]
    assert (other != made.batch(0)[0]["token_ids"]).any()


def test_each_step_draws_its_own_masks():
    store = corpus()
    ends = np.arange(1, len(store.tokens) + 1)  # one-token sentences of one document: rows of one length
    store.sentence_starts, store.sentence_ends = ends - 1, ends
    store.document_offsets = np.array([0, len(ends)])
    made = batches(store, objectives=("masked_lm",))
    positions = [made.batch(step)[0]["masked_positions"] for step in range(8)]
    assert len({array.tobytes() for array in positions}) == 8
    later = made.batch(made.steps_per_epoch)[0]["masked_positions"]
    assert (later != positions[0]).any()


def test_an_epoch_uses_each_example_once():
    store = corpus()
    store.tokens = np.arange(len(store.tokens), dtype=np.uint16) + 5  # each token tells where it is from
    store.vocabulary_size = len(store.tokens) + 5
    made = batches(store, objectives=("masked_lm",), steps=None, batch_size=1)
    assert made.steps == made.steps_per_epoch == made.examples_per_epoch
    seen = np.concatenate([restored(made.batch(step)).ravel() for step in range(made.steps)])
    assert (np.sort(seen[seen > 4]) == store.tokens).all()
    padding = np.concatenate([made.batch(step)[0]["padding_mask"] for step in range(made.steps)])
    assert padding.mean() == pytest.approx(made.mean_fill)


@pytest.mark.parametrize("accumulation", [2, 5])
def test_micro_batches_are_slices_of_the_larger_batch(accumulation):
    small = batches(gradient_accumulation=accumulation, steps=6, start_step=2)
    large = batches(batch_size=4 * accumulation, steps=6)
    assert len(small) == 4 * accumulation
    for step in range(2, 6):
        inputs, labels, weights = large.batch(step)
        parts = [small[(step - 2) * accumulation + part] for part in range(accumulation)]
        for number, group in enumerate((inputs, labels)):
            for name, array in group.items():
                assert (np.concatenate([part[number][name] for part in parts]) == array).all()
        losses = np.random.default_rng(step)
        for name, weight in weights.items():
            loss = losses.random(weight.shape)
            sums = [
                (part[2][name] * loss[index * 4 : index * 4 + 4]).sum() for index, part in enumerate(parts)
            ]
            assert np.mean(sums) == pytest.approx((weight * loss).sum() / weight.sum(), rel=1e-5)


def test_normalized_weights_of_a_single_batch_sum_to_one():
    for name, weight in batches(normalize_weights=True)[0][2].items():
        assert weight.sum() == pytest.approx(1, rel=1e-6), name
    plain = batches()[0][2]
    assert all(set(np.unique(weight)) <= {0, 1} for weight in plain.values())


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_the_last_batch_of_an_evaluation_is_filled_up_with_weight_zero(batch_size):
    made = batches(pad_last=True, steps=None, batch_size=batch_size)
    assert len(made) == -(-made.examples_per_epoch // batch_size)
    weights = [made[index][2] for index in range(len(made))]
    assert sum(weight["next_sentence"].sum() for weight in weights) == made.examples_per_epoch
    last = weights[-1]
    real = made.examples_per_epoch - (len(made) - 1) * batch_size
    assert last["next_sentence"].tolist() == [1] * real + [0] * (batch_size - real)
    assert last["masked_lm"][:real].any(axis=1).all() and not last["masked_lm"][real:].any()
    inputs = made[len(made) - 1][0]
    assert inputs["padding_mask"].any(axis=1).all()  # a row of padding only would make attention NaN
    assert inputs["token_ids"].shape == (batch_size, 32)
    assert len(batches(pad_last=True, steps=2, batch_size=7)) == 2
    assert len(batches(pad_last=True, steps=10_000, batch_size=batch_size)) == len(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 5_000},
            r"fewer than one step of 5,000 \(batch_size 5000 x gradient_accumulation 1\)",
        ),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"start_step": 51}, r"start_step is 51, it must lie in \[0, 50\]"),
        ({"objectives": ("masked_lm", "nsp")}, "'nsp' is not one of"),
        ({"objectives": ()}, "objectives are"),
        ({"objectives": ("next_sentence", "sentence_order")}, "objectives are"),
        ({"masking": "words"}, "'words'"),
        ({"masking": "span", "continuation": None}, "continuation"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        batches(**changes)


def test_index_errors():
    made = batches(steps=3)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            made[index]


def tiny_model(optimizer, reduction):
    token_ids = keras.Input((32,), dtype="int32", name="token_ids")
    positions = keras.Input((4,), dtype="int32", name="masked_positions")
    segment_ids = keras.Input((32,), dtype="int32", name="segment_ids")
    padding_mask = keras.Input((32,), dtype="int32", name="padding_mask")
    hidden = keras.layers.Embedding(VOCABULARY, 8)(token_ids)
    hidden = hidden + keras.layers.Embedding(2, 8)(segment_ids)
    chosen = keras.ops.take_along_axis(hidden, positions[:, :, None], axis=1)
    pooled = keras.ops.sum(hidden * keras.ops.cast(padding_mask, "float32")[:, :, None], axis=1)
    model = keras.Model(
        {
            "token_ids": token_ids,
            "segment_ids": segment_ids,
            "padding_mask": padding_mask,
            "masked_positions": positions,
        },
        {
            "masked_lm": keras.layers.Dense(VOCABULARY, name="masked_lm")(chosen),
            "next_sentence": keras.layers.Dense(2, name="next_sentence")(pooled),
        },
    )
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    model.compile(
        optimizer,
        {
            "masked_lm": MaskedLanguageModelLoss(reduction=reduction),
            "next_sentence": NextSentenceLoss(reduction=reduction),
        },
    )
    return model


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name == "kerasllm-prefetch"]


def wait_for_threads():
    deadline = time.monotonic() + 5
    while prefetching() and time.monotonic() < deadline:
        time.sleep(0.01)
    return prefetching()


def test_accumulated_micro_batches_train_like_the_larger_batch():
    plain = tiny_model(keras.optimizers.SGD(0.5), "mean_with_sample_weight")
    plain.fit(batches(batch_size=8, steps=3), shuffle=False, verbose=0)
    accumulated = tiny_model(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2), "sum")
    accumulated.fit(batches(gradient_accumulation=2, steps=3), shuffle=False, verbose=0)
    for left, right in zip(plain.get_weights(), accumulated.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert not wait_for_threads()


def test_an_evaluation_has_the_same_examples_in_batches_of_any_size():
    examples = []
    for batch_size in (9, 1_000):
        made = batches(pad_last=True, steps=None, batch_size=batch_size, objectives=("next_sentence",))
        rows = np.concatenate([made[index][0]["token_ids"] for index in range(len(made))])
        examples.append(rows[: made.examples_per_epoch])
    assert (examples[0] == examples[1]).all()


def test_no_thread_is_left_when_fit_is_interrupted():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    made = batches(steps=40)
    expected = [made.batch(step) for step in range(4)]
    model = tiny_model(keras.optimizers.SGD(0.1), "sum")
    with pytest.raises(KeyboardInterrupt):
        model.fit(made, shuffle=False, verbose=0, callbacks=[Interrupt()])
    assert not wait_for_threads()
    for step in range(4):
        same(made[step], expected[step])
