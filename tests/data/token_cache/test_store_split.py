"""Selecting and splitting documents of a token store made by hand."""

import dataclasses
import itertools

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


def book_store(books: int, seed: int = 0) -> TokenStore:
    """A store of books of 60 to 90 thousand tokens, in paragraphs of one to eight sentences."""
    draw = np.random.default_rng(seed)
    documents = [draw.integers(4, 40, draw.integers(3000, 4000)).tolist() for _ in range(books)]
    store = small_store(documents)
    begins = np.cumsum(draw.integers(1, 9, store.num_sentences))
    begins = np.union1d(begins[begins < store.num_sentences], store.document_offsets)
    return dataclasses.replace(store, paragraph_offsets=begins.astype(np.int64))


@pytest.mark.parametrize("books", [1, 2, 3, 4])
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.3])
def test_a_few_books_are_divided_between_paragraphs(books, fraction):
    store = book_store(books)
    training, validation = store.split(fraction, seed=1, least=2)
    assert validation.num_tokens == pytest.approx(fraction * store.num_tokens, rel=0.1)
    both = np.concatenate([training.sentence_starts, validation.sentence_starts])
    np.testing.assert_array_equal(np.sort(both), store.sentence_starts)
    paragraphs = set(store.sentence_starts[store.paragraph_offsets[:-1]].tolist())
    for part in (training, validation):
        assert part.num_documents >= 2
        assert set(part.sentence_starts[part.document_offsets[:-1]].tolist()) <= paragraphs
        ends = np.append(store.sentence_starts, store.num_tokens)[store.document_offsets]
        book = np.searchsorted(ends, part.sentence_starts, side="right")
        for start, end in itertools.pairwise(part.document_offsets.tolist()):
            assert len(set(book[start:end].tolist())) == 1  # no document reaches into another book
            assert (part.sentence_starts[start + 1 : end] == part.sentence_ends[start : end - 1]).all()
    again = store.split(fraction, seed=1, least=2)[1]
    np.testing.assert_array_equal(again.sentence_starts, validation.sentence_starts)
    other = store.split(fraction, seed=2, least=2)[1]
    assert set(other.sentence_starts.tolist()) != set(again.sentence_starts.tolist())


def test_a_book_without_paragraphs_is_divided_between_sentences():
    store = book_store(1)
    store = dataclasses.replace(store, paragraph_offsets=np.array([0, store.num_sentences], np.int64))
    training, validation = store.split(0.05, seed=0)
    assert validation.num_tokens == pytest.approx(0.05 * store.num_tokens, rel=0.1)
    assert training.num_tokens + validation.num_tokens == store.num_tokens


def test_a_book_among_short_documents_is_divided_too():
    store = small_store([[20]] * 300 + [[20] * 3000])
    for seed in range(5):
        _, validation = store.split(0.05, seed=seed)
        assert validation.num_tokens == pytest.approx(0.05 * store.num_tokens, rel=0.2)


def test_many_documents_stay_whole():
    store = small_store([[9, 9]] * 400)
    training, validation = store.split(0.05, seed=0, least=2)
    assert (training.num_documents, validation.num_documents) == (380, 20)
