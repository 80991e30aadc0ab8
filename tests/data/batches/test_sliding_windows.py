"""Windows that overlap: each token is judged once, with as much before it as they allow."""

import numpy as np
import pytest

from kerasllm.data.batches.sliding_windows import SlidingBatches
from kerasllm.data.token_cache.stream import TokenStream


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (5, 1), (50, 20)])
def test_sliding_windows_judge_every_token_once_with_enough_before_it(length, stride):
    tokens = np.random.default_rng(1).integers(0, 9, 37).astype(np.uint16)
    tokens[[11, 36]] = 9
    stream = TokenStream(tokens, np.array([0, 12]), 10, 9)
    judged = np.zeros(37, int)
    batches = SlidingBatches(stream, context_length=length, stride=stride, batch_size=3)
    seen = [9, *tokens.tolist()]  # an end mark, then the text
    start = 0
    for index in range(len(batches)):
        inputs, labels, weights = batches[index]
        for row in range(3):
            for column in np.flatnonzero(weights[row]):
                place = start + column
                assert labels[row, column] == tokens[place] != 9
                before = inputs["token_ids"][row, : column + 1].tolist()
                assert before == seen[place - column : place + 1]
                assert len(before) >= min(place + 1, length - stride + 1)
                judged[place] += 1
            start += stride
    assert (judged == (tokens != 9)).all()


def test_a_document_begins_with_its_own_mark():
    """In place of the end mark before it."""
    tokens = np.array([1, 2, 9, 3, 4, 9], np.uint16)
    stream = TokenStream(tokens, np.array([0, 3]), 10, 9)
    batches = SlidingBatches(stream, context_length=6, stride=6, batch_size=1, begin_id=8)
    inputs, labels, weights = batches[0]
    assert inputs["token_ids"].tolist() == [[8, 1, 2, 8, 3, 4]]
    assert labels[weights > 0].tolist() == [1, 2, 3, 4]
