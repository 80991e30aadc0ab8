"""Each text once an epoch, few shapes, nothing but (seed, step) in a batch; and `fit` on whatever backend."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kerasllm.data.batches.padded_labelled import ClassificationBatches, choose_buckets
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]


def tokenizer():
    found = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return found


def drawn(batch):
    """The texts of a batch that count."""
    inputs, _, weights = batch
    return (inputs["token_ids"][:, 0] - 1)[weights > 0].tolist()


def same(one, other):
    for left, right in zip(one, other, strict=True):
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            assert all(np.array_equal(left[name], right[name]) for name in left)
        else:
            assert np.array_equal(left, right)


def test_texts_and_pairs_by_hand():
    found = encode_texts(tokenizer(), [("a b",), ("a a a a a a", "b b"), ("c d x", ""), ("a " * 9,)], 7)
    assert np.split(found.token_ids, found.offsets[1:-1])[0].tolist() == [2, 5, 6, 3]
    assert np.split(found.token_ids, found.offsets[1:-1])[1].tolist() == [2, 5, 5, 3, 6, 6, 3]
    assert np.split(found.segment_ids, found.offsets[1:-1])[1].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert np.split(found.token_ids, found.offsets[1:-1])[2].tolist() == [2, 7, 8, 1, 3, 3]
    assert found.lengths.tolist() == [4, 7, 6, 7]
    assert found.num_truncated == 2 and found.pad_id == 0 and len(found) == 4


def test_the_tokenizer_is_left_as_it_was():
    own = tokenizer()
    own.enable_padding(length=20)
    own.enable_truncation(3)
    assert encode_texts(own, [("a b c d",)], 64).lengths.tolist() == [6]
    assert own.padding["length"] == 20 and own.truncation["max_length"] == 3


def test_a_row_needs_room_for_text():
    with pytest.raises(InputError, match="sequence_length 2 leaves no room"):
        encode_texts(tokenizer(), [("a",)], 2)
    with pytest.raises(InputError, match="sequence_length 4 leaves no room"):
        encode_texts(tokenizer(), [("a", "b")], 4)
    assert encode_texts(tokenizer(), [("a a", "b b")], 5).lengths.tolist() == [5]


def test_a_batch_by_hand(encoded):
    batches = ClassificationBatches(
        encoded([3, 6, 2]), np.array([0.5, 1, 2]), batch_size=4, shuffle=False, buckets=(4, 8)
    )
    inputs, labels, weights = batches[0]
    assert inputs["token_ids"].tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0],
        [3, 3, 0, 0, 0, 0, 0, 0],
        [2, 2, 2, 2, 2, 2, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
    ]
    assert inputs["segment_ids"][2].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert inputs["padding_mask"].sum(axis=1).tolist() == [3, 2, 6, 3]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}
    assert labels.tolist() == [0.5, 2, 1, 0.5] and labels.dtype == np.float32
    assert weights.tolist() == [1, 1, 1, 0] and weights.dtype == np.float32
    assert batches.order.tolist() == [[0, 2, 1, -1]]
    assert batches.real_tokens(0) == 11


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 3),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.booleans(),
    buckets=st.sampled_from(["auto", None, (16, 64)]),
)
@settings(max_examples=60, deadline=None)
def test_every_text_once_an_epoch(encoded, lengths, batch_size, accumulation, epochs, seed, shuffle, buckets):
    texts = encoded(lengths)
    labels = np.arange(len(lengths)) * 10
    arguments = {"batch_size": batch_size, "gradient_accumulation": accumulation, "seed": seed}
    arguments |= {"epochs": epochs, "shuffle": shuffle, "buckets": buckets}
    batches = ClassificationBatches(texts, labels, **arguments)
    per_epoch = batches.steps_per_epoch * accumulation
    assert len(batches) == epochs * per_epoch
    assert batches.steps_per_epoch == -(-len(lengths) // (batch_size * accumulation))
    assert len(batches.buckets) <= 4
    items = [batches.batch(step) for step in range(batches.steps)]
    for epoch in range(epochs):
        of_epoch = items[epoch * batches.steps_per_epoch : (epoch + 1) * batches.steps_per_epoch]
        assert sorted(text for item in of_epoch for text in drawn(item)) == list(range(len(lengths)))
    for inputs, labels_of, weights in items:
        texts_of = inputs["token_ids"][:, 0] - 1
        assert (labels_of == texts_of * 10).all()
        assert (inputs["padding_mask"].sum(axis=1) == np.asarray(lengths)[texts_of]).all()
        assert ((inputs["token_ids"] > 0) == inputs["padding_mask"]).all()
        assert inputs["token_ids"].shape[0] == batch_size * accumulation
        assert inputs["token_ids"].shape[1] in batches.buckets
        # With K micro-batches the K sums of the losses are averaged: the weights' sum must then be K.
        expected = accumulation if accumulation > 1 else (weights > 0).sum()
        np.testing.assert_allclose(weights.sum(), expected, rtol=1e-6)
    start = batches.steps // 2
    resumed = ClassificationBatches(texts, labels, start_step=start, **arguments)
    assert len(resumed) == len(batches) - start * accumulation
    for step in range(start, batches.steps):
        same(resumed.batch(step), items[step])
    resumed.on_epoch_begin()
    batches.on_epoch_begin()
    for index in reversed(range(len(resumed))):
        same(resumed[index], batches[index + start * accumulation])
    with pytest.raises(IndexError):
        resumed[len(resumed)]


def test_micro_batches_are_slices_of_the_step(encoded):
    batches = ClassificationBatches(
        encoded(np.arange(1, 12)), np.arange(11), batch_size=3, gradient_accumulation=2, epochs=2
    )
    batches.on_epoch_begin()
    for step in range(4):
        inputs, labels, weights = batches.batch(step)
        for part in range(2):
            rows = slice(3 * part, 3 * part + 3)
            same(
                batches[2 * step + part],
                ({n: array[rows] for n, array in inputs.items()}, labels[rows], weights[rows]),
            )


def test_accumulated_sums_average_to_the_mean_of_the_step(encoded):
    batches = ClassificationBatches(
        encoded([5] * 10), np.arange(10), batch_size=3, gradient_accumulation=4, shuffle=False
    )
    losses = np.arange(10.0) ** 2
    sums = [(losses[labels] * weights).sum() for _, labels, weights in (batches[i] for i in range(4))]
    np.testing.assert_allclose(np.mean(sums), losses.mean(), rtol=1e-6)


def test_epochs_and_seeds_differ_and_every_text_meets_every_place(encoded):
    texts, labels = encoded([7] * 40), np.zeros(40, int)
    batches = ClassificationBatches(texts, labels, batch_size=8, epochs=300, seed=5)
    orders = np.array([drawn(batches.batch(step)) for step in range(1500)]).reshape(300, 40)
    assert len({tuple(order) for order in orders}) == 300
    # A uniform permutation: the mean place is 19.5 with a standard deviation of 11.5 / sqrt(300).
    assert abs(orders.argsort(axis=1).mean(axis=0) - 19.5).max() < 5 * 11.6 / np.sqrt(300)
    other = ClassificationBatches(texts, labels, batch_size=8, seed=6)
    assert drawn(other.batch(0)) != drawn(batches.batch(0))


def test_neighbors_are_left_to_chance_within_a_length_and_long_batches_come_at_any_time(encoded):
    lengths = np.repeat([5, 60], 40)
    batches = ClassificationBatches(
        encoded(lengths), np.zeros(80, int), batch_size=8, epochs=20, buckets=(16, 64)
    )
    shapes = [batches.batch(step)[0]["token_ids"].shape[1] for step in range(batches.steps)]
    assert shapes.count(64) == shapes.count(16) == 100
    firsts = [shapes[10 * epoch] for epoch in range(20)]
    assert 16 in firsts and 64 in firsts
    assert len({frozenset(drawn(batches.batch(step))) for step in range(200)}) == 200


def brute_force(lengths, limits, most):
    best = {}
    for count in range(1, most + 1):
        for some in itertools.combinations(limits[:-1], count - 1):
            chosen = (*some, limits[-1])
            cost = sum(next(limit for limit in chosen if limit >= length) for length in lengths)
            best[count] = min(best.get(count, cost), cost)
    return best


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_buckets_need_the_least_padding(lengths):
    found = choose_buckets(np.array(lengths), 100)
    limits = [
        *(limit for limit in range(16, 100, 16) if limit - 16 < max(lengths)),
        *[100] * (max(lengths) > 96),
    ]
    assert set(found) <= set(limits) and list(found) == sorted(set(found)) and max(lengths) <= found[-1]
    cost = sum(next(limit for limit in found if limit >= length) for length in lengths)
    best = brute_force(lengths, limits, 4)
    assert cost == best[len(found)]
    if len(found) < 4 and len(found) + 1 in best:
        assert best[len(found) + 1] > 0.95 * cost


def test_buckets_that_do_not_fit(encoded):
    texts = encoded([5, 20])
    with pytest.raises(InputError, match="the longest text has 20 tokens"):
        ClassificationBatches(texts, None, batch_size=2, buckets=(16,))
    assert ClassificationBatches(texts, None, batch_size=2, buckets=None).buckets == (64,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"start_step": 3}, r"start_step is 3, it must lie in \[0, 2\]"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range(encoded, arguments, expected):
    with pytest.raises(InputError, match=expected):
        ClassificationBatches(encoded([5] * 4), None, **{"batch_size": 2, **arguments})


def test_no_texts():
    with pytest.raises(InputError, match="no texts"):
        ClassificationBatches(encode_texts(tokenizer(), [], 8), None, batch_size=2)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fit_takes_batches_of_several_lengths(encoded, accumulation):
    """On TensorFlow Keras would take the first two batches' length for the only one."""
    from kerasllm import BertClassifier, BertConfig

    config = BertConfig(
        vocabulary_size=30,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=16,
        max_sequence_length=64,
    )
    model = BertClassifier(config, num_classes=2, seed=1)
    reduction = "sum" if accumulation > 1 else "mean_with_sample_weight"
    model.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction),
    )
    lengths = [60] * 10 + [5] * 10
    batches = ClassificationBatches(
        encoded(lengths),
        np.arange(20) % 2,
        batch_size=4 // accumulation,
        seed=2,
        epochs=2,
        buckets=(16, 64),
        gradient_accumulation=accumulation,
    )
    shapes = {batches.batch(step)[0]["token_ids"].shape[1] for step in range(batches.steps)}
    assert shapes == {16, 64}
    seen = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    # Whatever the first two lengths are: from every step on, as after an interruption.
    for start in (0, 3, 7):
        batches = ClassificationBatches(
            encoded(lengths),
            np.arange(20) % 2,
            batch_size=4 // accumulation,
            seed=2,
            epochs=2,
            buckets=(16, 64),
            gradient_accumulation=accumulation,
            start_step=start,
        )
        seen.clear()
        model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[count])
        assert len(seen) == len(batches)
