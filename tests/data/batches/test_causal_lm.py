"""Windows of a stream against a brute force, as a pure function of seed and step."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError

END = 9


def stream_of(tokens, dtype=np.uint8) -> TokenStream:
    tokens = np.array(tokens, dtype)
    starts = np.flatnonzero(np.concatenate([[True], tokens[:-1] == END]))
    return TokenStream(tokens, starts.astype(np.int64), 10, END)


def counting(size: int) -> TokenStream:
    """Each token tells where it stands; without marks."""
    return TokenStream(np.arange(size, dtype=np.uint16), np.zeros(1, np.int64), size + 1, size)


def batches(stream=None, **changes) -> CausalBatches:
    stream = counting(500) if stream is None else stream
    return CausalBatches(stream, **{"context_length": 8, "batch_size": 4, "steps": 20, "seed": 1} | changes)


def same(left, right) -> None:
    assert left[0].keys() == right[0].keys()
    for name, array in left[0].items():
        np.testing.assert_array_equal(array, right[0][name])
    for one, other in zip(left[1:], right[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def by_hand(window: list[int]) -> tuple[list[int], list[int], list[float]]:
    """Segments, positions and weights of a window, token by token."""
    segments, positions, weights = [], [], []
    segment = position = 0
    for token in window:
        segments.append(segment)
        positions.append(position)
        weights.append(float(token != END))
        segment, position = (segment + 1, 0) if token == END else (segment, position + 1)
    return segments, positions, weights


def test_items_are_windows_and_the_tokens_after_them():
    made = batches()
    for step in range(20):
        inputs, labels, weights = made[step]
        assert inputs.keys() == {"token_ids"}
        token_ids = inputs["token_ids"]
        assert token_ids.dtype == labels.dtype == np.int32 and weights.dtype == np.float32
        assert token_ids.shape == labels.shape == weights.shape == (4, 8)
        np.testing.assert_array_equal(token_ids, token_ids[:, :1] + np.arange(8))
        np.testing.assert_array_equal(labels, token_ids + 1)
        assert (weights == 1).all()


def test_a_pass_takes_each_token_once():
    size, length, steps = 12 * 8 + 6, 8, 33  # three passes of eleven windows, a window a step
    made = batches(counting(size), batch_size=1, steps=steps, prefetch=0)
    passes = [[made.batch(step)[0]["token_ids"][0] for step in range(n, n + 11)] for n in (0, 11, 22)]
    for windows in passes:
        tokens = np.sort(np.concatenate(windows))
        assert (np.diff(tokens) == 1).all() and len(tokens) == 11 * length
    starts = [[int(window[0]) for window in windows] for windows in passes]
    assert all(sorted(order) != order for order in starts)
    assert len({min(order) for order in starts}) > 1
    assert np.argsort(starts[0]).tolist() != np.argsort(starts[1]).tolist()


def test_every_token_is_predicted_in_the_long_run():
    made = batches(counting(200), batch_size=23, steps=100, prefetch=0)  # a hundred passes
    counts = np.bincount(np.concatenate([made.batch(step)[1].ravel() for step in range(100)]), minlength=200)
    assert counts[0] == 0 and counts[1:].min() > 0  # nothing comes before the first
    assert (counts[17:-17] == 100).all()


def test_batches_may_be_larger_than_passes():
    made = batches(counting(20), batch_size=7, prefetch=0)
    one = batches(counting(20), batch_size=1, steps=70, prefetch=0)
    rows = np.concatenate([made.batch(step)[0]["token_ids"] for step in range(10)])
    np.testing.assert_array_equal(rows, [one.batch(step)[0]["token_ids"][0] for step in range(70)])


def test_the_shortest_stream_has_one_window():
    assert (batches(counting(9))[0][0]["token_ids"] == np.arange(8)).all()


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, END) | st.just(END), min_size=6, max_size=40),
    st.integers(1, 5),
    st.integers(0, 2**64 - 1),
)
def test_documents_are_told_apart(tokens, length, seed):
    made = batches(stream_of(tokens), context_length=length, seed=seed, within_documents=True, prefetch=0)
    inputs, labels, weights = made.batch(3)
    plain = batches(stream_of(tokens), context_length=length, seed=seed, prefetch=0).batch(3)
    np.testing.assert_array_equal(inputs["token_ids"], plain[0]["token_ids"])
    np.testing.assert_array_equal(labels, plain[1])
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}
    for row in range(4):
        found = tuple(
            array[row].tolist() for array in (inputs["sequence_ids"], inputs["position_ids"], weights)
        )
        assert found == by_hand(inputs["token_ids"][row].tolist())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), order=st.permutations(list(range(8))), prefetch=st.integers(0, 3))
def test_a_batch_depends_on_seed_and_step_alone(seed, order, prefetch):
    expected = [batches(seed=seed, prefetch=0).batch(step) for step in range(8)]
    mixed = batches(seed=seed, steps=8, prefetch=prefetch)
    for step in order:
        same(mixed[step], expected[step])
    resumed = batches(seed=seed, steps=8, start_step=5, prefetch=prefetch)
    assert len(resumed) == 3
    for index in range(3):
        same(resumed[index], expected[5 + index])
    assert len({batch[1].tobytes() for batch in expected}) == 8
    assert (batches(seed=seed + 1).batch(0)[1] != expected[0][1]).any()


@pytest.mark.parametrize("accumulation", [2, 5])
def test_micro_batches_are_slices_of_the_larger_batch(accumulation):
    stream = stream_of(np.random.default_rng(0).integers(0, 10, 300))
    small = batches(stream, gradient_accumulation=accumulation, steps=6, start_step=2, within_documents=True)
    large = batches(stream, batch_size=4 * accumulation, steps=6, within_documents=True)
    assert len(small) == 4 * accumulation and small.steps == 6
    for step in range(2, 6):
        inputs, labels, weights = large.batch(step)
        parts = [small[(step - 2) * accumulation + part] for part in range(accumulation)]
        for name, array in inputs.items():
            np.testing.assert_array_equal(np.concatenate([part[0][name] for part in parts]), array)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
        assert 0 < weights.sum() < weights.size
        loss = np.random.default_rng(step).random(weights.shape)
        sums = [(part[2] * loss[4 * i : 4 * i + 4]).sum() for i, part in enumerate(parts)]
        assert np.mean(sums) == pytest.approx((weights * loss).sum() / weights.sum(), rel=1e-5)
    assert batches(normalize_weights=True)[0][2].sum() == pytest.approx(1)


def test_windows_of_marks_only_do_not_divide_by_zero():
    made = batches(stream_of([END] * 20), within_documents=True, normalize_weights=True)
    assert (made[0][2] == 0).all()


@settings(deadline=None, max_examples=150)
@given(
    tokens=st.lists(st.integers(0, END), min_size=2, max_size=60),
    length=st.integers(1, 8),
    batch_size=st.integers(1, 5),
    limit=st.none() | st.integers(1, 3),
    within_documents=st.booleans(),
    keep_partial=st.booleans(),
)
def test_evaluation_has_each_window_once(tokens, length, batch_size, limit, within_documents, keep_partial):
    stream = stream_of(tokens)
    options = {"limit": limit, "within_documents": within_documents, "keep_partial": keep_partial}
    if len(tokens) < length + 1 and not keep_partial:
        with pytest.raises(
            InputError, match=f"--context_length {length} is longer than the corpus of {len(tokens)}"
        ):
            CausalEvaluationBatches(stream, context_length=length, batch_size=batch_size, **options)
        return
    made = CausalEvaluationBatches(stream, context_length=length, batch_size=batch_size, **options)
    expected = []  # (inputs, labels, weights) of each window
    for start in range(0, len(tokens) - 1, length):
        window, following = tokens[start : start + length], tokens[start + 1 : start + length + 1]
        if len(following) == length or keep_partial:
            weights = by_hand(window)[2] if within_documents else [1.0] * length
            expected.append((window, following, weights[: len(following)]))
    number = -(-len(expected) // batch_size)
    assert len(made) == made.steps == (number if limit is None else min(number, limit))
    found = [made[index] for index in range(len(made))]
    assert all(labels.shape == (batch_size, length) for _, labels, _ in found)
    rows = [
        (ids.tolist(), following.tolist(), weight.tolist())
        for inputs, labels, weights in found
        for ids, following, weight in zip(inputs["token_ids"], labels, weights, strict=True)
    ]
    for row, (window, following, weights) in zip(rows, expected, strict=False):
        assert row[0][: len(window)] == window and row[1][: len(following)] == following
        assert row[2] == weights + [0.0] * (length - len(weights))
    assert all(not any(weight) for _, _, weight in rows[len(expected) :])
    for inputs, labels, weights in found:
        assert inputs["token_ids"].dtype == labels.dtype == np.int32 and weights.dtype == np.float32
        assert max(inputs["token_ids"].max(), labels.max()) <= END
        if within_documents:
            for row in range(batch_size):
                segments, positions, _ = by_hand(inputs["token_ids"][row].tolist())
                assert inputs["sequence_ids"][row].tolist() == segments
                assert inputs["position_ids"][row].tolist() == positions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": 500}, "--context_length 500 is longer than the corpus of 500 tokens: "),
        ({"context_length": 0}, "context_length is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation is 0"),
        ({"start_step": 21}, r"start_step is 21, it must lie in \[0, 20\]"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        batches(**changes)


def test_wrong_settings_of_an_evaluation_are_named():
    for changes in ({"limit": 0}, {"batch_size": 0}, {"context_length": 0}):
        (name,) = changes
        with pytest.raises(InputError, match=f"{name} is 0"):
            CausalEvaluationBatches(counting(50), **{"context_length": 8, "batch_size": 4} | changes)
    with pytest.raises(InputError, match="corpus of 1 token"):
        CausalEvaluationBatches(counting(1), context_length=8, batch_size=4, keep_partial=True)


def test_index_errors():
    for made in (batches(steps=3), CausalEvaluationBatches(counting(25), context_length=8, batch_size=1)):
        assert len(made) == 3
        for index in (-1, 3):
            with pytest.raises(IndexError):
                made[index]


def test_fit_and_evaluate_take_them():
    token_ids = keras.Input((8,), dtype="int32", name="token_ids")
    logits = keras.layers.Dense(10)(keras.layers.Embedding(10, 16)(token_ids))
    model = keras.Model({"token_ids": token_ids}, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    stream = stream_of(np.tile(np.arange(10), 30))  # each token tells the next
    held_out = CausalEvaluationBatches(stream, context_length=8, batch_size=16)
    before = model.evaluate(held_out, verbose=0)
    model.fit(batches(stream, steps=60, batch_size=16), shuffle=False, verbose=0)
    assert model.evaluate(held_out, verbose=0) < 0.2 < before
