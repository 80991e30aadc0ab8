"""Selecting and splitting documents of a token store made by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.token_cache.store import TokenStore
from kerasllm.errors import InputError


def small_store(lengths_by_document: list[list[int]]) -> TokenStore:
    lengths = [length for document in lengths_by_document for length in document]
    ends = np.cumsum(lengths, dtype=np.int64)
    documents = np.cumsum([0, *map(len, lengths_by_document)], dtype=np.int64)
    return TokenStore(np.arange(sum(lengths), dtype=np.uint16), ends - lengths, ends, documents, 9)


def test_select_keeps_the_tokens_and_the_order_asked_for():
    store = small_store([[2, 1], [3], [1, 1, 4]])
    chosen = store.select([2, 0])
    assert chosen.tokens is store.tokens
    assert [chosen.sentence(i).tolist() for i in range(5)] == [[6], [7], [8, 9, 10, 11], [0, 1], [2]]
    assert chosen.document_offsets.tolist() == [0, 3, 5]
    assert (chosen.num_tokens, chosen.num_sentences, chosen.num_documents) == (9, 5, 2)
    assert chosen.select([1]).sentence(0).tolist() == [0, 1]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=2, max_size=20),
    st.floats(0.01, 0.99),
)
def test_split_parts_the_documents(lengths, fraction):
    store = small_store(lengths)
    training, validation = store.split(fraction, seed=3)
    assert training.num_documents >= 1 and validation.num_documents >= 1
    assert training.num_documents + validation.num_documents == store.num_documents
    assert training.num_tokens + validation.num_tokens == store.num_tokens
    assert not set(training.sentence_starts.tolist()) & set(validation.sentence_starts.tolist())
    again = store.split(fraction, seed=3)[1]
    np.testing.assert_array_equal(again.sentence_starts, validation.sentence_starts)
    assert (np.diff(validation.sentence_starts) > 0).all()


def test_split_is_near_the_fraction_and_depends_on_the_seed():
    store = small_store([[5]] * 1000)
    _, validation = store.split(0.1, seed=0)
    assert validation.num_documents == 100
    assert (store.split(0.1, seed=1)[1].sentence_starts != validation.sentence_starts).any()
    with pytest.raises(InputError, match="has 1 document"):
        small_store([[1, 2]]).split(0.1, seed=0)
    assert store.split(0.0001, seed=0, least=2)[1].num_documents == 2
    assert store.split(0.9999, seed=0, least=2)[0].num_documents == 2
    with pytest.raises(InputError, match="at least 2"):
        small_store([[1], [2], [3]]).split(0.1, seed=0, least=2)
    with pytest.raises(InputError, match="validation_fraction"):
        store.split(1.0, seed=0)
