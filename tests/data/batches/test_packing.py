"""Rows of several sequences: nothing is lost, nothing overlaps, and every place says whose it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.batches.packing import PackedRows, Rows, pack
from kerasllm.errors import InputError


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.one_of(st.none(), st.integers(1, 5)))
@settings(max_examples=100, deadline=None)
def test_packing_fits_and_wastes_little(lengths, most):
    rows = pack(lengths, 20, most)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    loads = [sum(lengths[item] for item in row) for row in rows]
    assert max(loads) <= 20
    assert max(map(len, rows)) <= (most or 60)
    if most is None:  # the bound of Johnson et al. 1974
        full = sum(load > 10 for load in loads) >= len(rows) - 1
        assert len(rows) <= 11 / 9 * -(-sum(lengths) // 20) + 1 or full


def test_rows_by_hand():
    rows = Rows.of([[2, 0], [1], [3, 4, 5]])
    assert len(rows) == 3 and rows.most == 3
    items, counts = rows.take(np.array([2, 0]))
    assert items.tolist() == [3, 4, 5, 2, 0] and counts.tolist() == [3, 2]
    packed = PackedRows(np.array([2, 3, 1]), np.array([2, 0, 1]), row_length=6, slots=2)
    found = packed.inputs({"token_ids": np.array([7, 8, 4, 5, 6, 9])}, {"token_ids": 1})
    assert found["token_ids"].tolist() == [[7, 8, 4, 5, 6, 1], [1] * 6, [9, 1, 1, 1, 1, 1]]
    assert found["sequence_ids"].tolist() == [[0, 0, 1, 1, 1, -1], [-1] * 6, [0, -1, -1, -1, -1, -1]]
    assert found["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0], [0] * 6, [0] * 6]
    assert found["first_positions"].tolist() == [[0, 2], [0, 0], [0, 0]]
    assert {array.dtype for array in found.values()} == {np.dtype("int32")}
    assert packed.by_slot(np.array([0.5, 2, 3])).tolist() == [[0.5, 2], [0, 0], [3, 0]]


def texts_of(batch):
    """(text, label) of each sequence with a weight, from the tokens alone (text i is made of tokens i + 1)."""
    inputs, labels, weights = batch
    found = []
    for row, slot in zip(*np.nonzero(weights), strict=True):
        first = inputs["first_positions"][row, slot]
        own = inputs["sequence_ids"][row] == slot
        columns = np.flatnonzero(own)
        assert columns[0] == first and (np.diff(columns) == 1).all()
        assert inputs["position_ids"][row, own].tolist() == list(range(len(columns)))
        tokens = inputs["token_ids"][row, own]
        assert (tokens == tokens[0]).all()
        assert inputs["segment_ids"][row, own].tolist() == [
            n >= len(own[own]) // 2 for n in range(len(columns))
        ]
        found.append((tokens[0] - 1, len(columns), labels[row, slot]))
    return found


@given(
    lengths=st.lists(st.integers(3, 60), min_size=1, max_size=50),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_every_text_comes_once_an_epoch_in_one_shape(encoded, lengths, batch_size, accumulation, seed):
    labels = np.arange(len(lengths)) * 0.5
    batches = PackedClassificationBatches(
        encoded(lengths),
        labels,
        batch_size=batch_size,
        seed=seed,
        epochs=2,
        gradient_accumulation=accumulation,
    )
    shape = (batches.rows_per_batch, batches.row_length)
    assert batches.row_length <= 64 and batches.shapes == 1
    for epoch in range(2):
        found = []
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            total = 0.0
            for part in range(accumulation):
                batch = batches[step * accumulation + part]
                assert batch[0]["token_ids"].shape == shape
                assert batch[1].shape == batch[2].shape == (shape[0], batches.slots)
                texts = texts_of(batch)
                assert len(texts) <= batch_size
                found += texts
                total += batch[2].sum()
            if accumulation > 1:
                assert total == pytest.approx(accumulation, rel=1e-5)  # the sums, averaged, are a mean
            assert batches.real_tokens(step) == sum(length for _, length, _ in found) - sum(
                batches.real_tokens(other) for other in range(epoch * batches.steps_per_epoch, step)
            )
        assert sorted(text for text, _, _ in found) == list(range(len(lengths)))
        assert all(lengths[text] == length and labels[text] == label for text, length, label in found)


def test_batches_depend_on_seed_and_step_alone(encoded):
    draw = np.random.default_rng(0)
    texts = encoded(draw.integers(5, 40, 203))
    make = {"labels": np.zeros(203, int), "batch_size": 16, "epochs": 2}
    whole = PackedClassificationBatches(texts, seed=1, **make)
    later = PackedClassificationBatches(texts, seed=1, start_step=9, **make)
    other = PackedClassificationBatches(texts, seed=2, **make)
    for step in (9, 13, 25):
        for one, other_one in zip(later[step - 9][1:], whole[step][1:], strict=True):
            np.testing.assert_array_equal(one, other_one)
        for name, array in whole[step][0].items():
            np.testing.assert_array_equal(later[step - 9][0][name], array)
    assert not np.array_equal(whole[0][0]["token_ids"], whole[13][0]["token_ids"])
    assert not np.array_equal(whole[0][0]["token_ids"], other[0][0]["token_ids"][: whole.rows_per_batch])


def test_little_is_padding_and_batches_are_alike(encoded):
    """Texts of MRPC's lengths: 53 tokens on average, deviation 13, the longest 103."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(53, 13, 3000).round().astype(int), 19, 103)
    batches = PackedClassificationBatches(
        encoded(lengths, sequence_length=128), np.zeros(3000, int), batch_size=32, epochs=3
    )
    assert batches.fill > 0.88  # 0.41 in rows of 128
    tokens = [batches.real_tokens(step) for step in range(batches.steps_per_epoch)]
    assert max(tokens) < 1.05 * min(tokens) + 103


@pytest.mark.parametrize(
    "setting,message", [({"batch_size": 0}, "batch_size is 0"), ({"start_step": 9}, r"lie in \[0, 1\]")]
)
def test_settings_out_of_range(encoded, setting, message):
    with pytest.raises(InputError, match=message):
        PackedClassificationBatches(encoded([5, 6]), np.zeros(2, int), **({"batch_size": 2} | setting))
