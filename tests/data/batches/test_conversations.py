"""Conversations in rows: whole, side by side, and the same ones for the same seed and step."""

import numpy as np
import pytest

from kerasllm.data.batches.conversations import ConversationBatches
from kerasllm.data.examples.conversations import EncodedConversation
from kerasllm.errors import InputError


def examples():
    draw = np.random.default_rng(0)
    return [
        EncodedConversation(draw.integers(1, 90, n).astype(np.int32), np.arange(n) >= n // 2)
        for n in (5, 9, 3, 14, 8, 2, 30, 6)
    ]


def test_rows_hold_whole_conversations_side_by_side():
    batches = ConversationBatches(examples(), context_length=16, batch_size=2, epochs=2, seed=3, prefetch=0)
    assert batches.num_cut == 1 and batches.num_dropped == 0
    found = []
    for index in range(batches.steps_per_epoch):
        inputs, labels, weights = batches[index]
        assert inputs["token_ids"].shape == (2, 16) and weights.dtype == np.float32
        for row in range(2):
            sequences = inputs["sequence_ids"][row]
            assert (weights[row][sequences == -1] == 0).all()
            for sequence in range(sequences.max() + 1):
                here = sequences == sequence
                assert (np.diff(np.flatnonzero(here)) == 1).all()
                assert inputs["position_ids"][row][here].tolist() == list(range(here.sum()))
                ids = [*inputs["token_ids"][row][here], labels[row][here][-1]]
                found.append((tuple(ids), tuple(weights[row][here] > 0)))
    expected = [(tuple(e.token_ids[:17]), tuple(e.learnt[1:17])) for e in examples()]
    assert sorted(found) == sorted(expected)


def test_batches_are_a_function_of_seed_and_step():
    settings = {"context_length": 16, "batch_size": 2, "epochs": 2, "seed": 3}
    whole = ConversationBatches(examples(), **settings)
    rest = ConversationBatches(examples(), start_step=3, **settings)
    assert len(rest) == len(whole) - 3
    for index in range(len(rest)):
        for one, other in zip(rest[index], whole[index + 3], strict=True):
            np.testing.assert_equal(one, other)
    with pytest.raises(InputError, match="--context_length 1 leaves nothing to learn"):
        ConversationBatches(examples()[3:4], context_length=1, batch_size=1)
    with pytest.raises(InputError, match=r"start_step is 9, it must lie in \[0, 4\]"):
        ConversationBatches(examples(), start_step=9, **settings)


def concatenated(items):
    inputs, labels, weights = zip(*items, strict=True)
    joined = {name: np.concatenate([part[name] for part in inputs]) for name in inputs[0]}
    return joined, np.concatenate(labels), np.concatenate(weights)


@pytest.mark.parametrize("shuffle", [True, False])
def test_micro_batches_make_the_larger_batch(shuffle):
    settings = {"context_length": 16, "epochs": 2, "seed": 3, "shuffle": shuffle}
    large = ConversationBatches(examples(), batch_size=3, **settings)
    small = ConversationBatches(examples(), batch_size=1, gradient_accumulation=3, **settings)
    assert (small.steps, small.steps_per_epoch, len(small)) == (
        large.steps,
        large.steps_per_epoch,
        3 * large.steps,
    )
    plain = ConversationBatches(
        examples(), batch_size=1, gradient_accumulation=3, normalize_weights=False, **settings
    )
    for step in range(large.steps):
        parts = range(3 * step, 3 * step + 3)
        np.testing.assert_equal(concatenated([plain[index] for index in parts]), large[step])
        inputs, labels, weights = concatenated([small[index] for index in parts])
        np.testing.assert_equal((inputs, labels), large[step][:2])
        # The K sums, averaged, are the mean over the assistant's tokens of the step.
        total = large[step][2].sum()
        np.testing.assert_allclose(weights, large[step][2] * 3 / total, rtol=1e-6)
        assert weights.sum() == pytest.approx(3)
