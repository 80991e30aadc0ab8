"""Lanes of a stream: each goes on where the batch before ended, and evaluation predicts each token once."""

import numpy as np
import pytest

from kerasllm.data.batches.lanes import LaneBatches, LaneEvaluationBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError


def counting(size: int) -> TokenStream:
    """Each token tells where it stands."""
    return TokenStream(np.arange(size, dtype=np.uint16), np.zeros(1, np.int64), size + 1, size)


def made(size=203, **settings) -> LaneBatches:
    return LaneBatches(
        counting(size), **{"context_length": 7, "batch_size": 4, "steps": 20, "seed": 5} | settings
    )


def test_rows_go_on_until_a_new_pass_begins():
    batches = made()
    assert batches.steps_per_pass == 7
    before = None
    for step in range(20):
        inputs, labels, weights = batches[step]
        ids = inputs["token_ids"]
        assert (labels == ids + 1).all() and (weights == 1).all()
        assert (inputs["continues"] == (step % 7 > 0)).all()
        if step % 7:
            assert (ids[:, 0] == before[:, -1] + 1).all()
        before = ids
    first = [np.concatenate([made()[7 * k + i][0]["token_ids"] for i in range(7)], axis=1) for k in range(2)]
    assert len(np.unique(first[0])) == first[0].size == 4 * 49  # no token twice in a pass
    assert first[0][0, 0] != first[1][0, 0]  # the next pass cuts the text elsewhere


def test_a_resumed_run_gets_the_same_batches():
    whole, rest = made(), made(start_step=9)
    for step in range(9, 20):
        for one, other in zip(whole[step][0].values(), rest[step - 9][0].values(), strict=True):
            assert (one == other).all()


def test_accumulated_batches_are_the_lanes_of_a_large_one():
    large, small = made(), made(batch_size=2, gradient_accumulation=2)
    for step in range(3):
        parts = [small[2 * step + part][0]["token_ids"] for part in range(2)]
        assert (np.concatenate(parts) == large[step][0]["token_ids"]).all()


@pytest.mark.parametrize("size", [50, 57, 64])
def test_evaluation_predicts_each_token_once(size):
    batches = LaneEvaluationBatches(counting(size), context_length=4, batch_size=3)
    seen = []
    for step in range(len(batches)):
        inputs, labels, weights = batches[step]
        assert (labels[weights > 0] == inputs["token_ids"][weights > 0] + 1).all()
        assert (inputs["continues"] == (step > 0)).all()
        seen += labels[weights > 0].tolist()
    assert sorted(seen) == list(range(1, size))


def test_texts_alone_are_scored_from_an_end_mark_and_without_any():
    tokens = np.array([1, 2, 9, 3, 4, 5, 9], np.uint16)
    stream = TokenStream(tokens, np.array([0, 3]), 10, 9)
    batches = LaneEvaluationBatches(stream, context_length=4, batch_size=1, texts_alone=True)
    pairs = []
    for step in range(len(batches)):
        inputs, labels, weights = batches[step]
        pairs += list(zip(inputs["token_ids"][weights > 0], labels[weights > 0], strict=True))
    assert pairs == [(9, 1), (1, 2), (9, 3), (3, 4), (4, 5)]


def test_too_short_a_text_is_refused():
    with pytest.raises(
        InputError, match="4 lanes of --context_length 7 tokens are more than the corpus of 20 tokens"
    ):
        made(20)
    with pytest.raises(InputError, match="nothing to predict"):
        LaneEvaluationBatches(counting(1), context_length=4, batch_size=2)
