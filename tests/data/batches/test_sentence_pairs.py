"""Plans against a slow version in plain Python, and against the papers' rates and rules."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.batches import sentence_pairs
from kerasllm.data.batches.sentence_pairs import plan_pairs, truncate_pairs
from kerasllm.data.random_streams import random_stream
from kerasllm.errors import InputError


def corpus(documents, gap=7):
    """A store of documents, each a list of sentence lengths, apart from each other as after `select`."""
    starts, ends, offsets, position = [], [], [0], 3
    for document in documents:
        for length in document:
            starts.append(position)
            position += length
            ends.append(position)
        offsets.append(len(starts))
        position += gap
    return SimpleNamespace(
        tokens=(np.arange(position + gap) % 60_000 + 5).astype(np.uint16),
        sentence_starts=np.array(starts, np.int64),
        sentence_ends=np.array(ends, np.int64),
        document_offsets=np.array(offsets, np.int64),
        vocabulary_size=60_005,
    )


def random_documents(seed, num_documents, longest=30, sentence=25):
    generator = np.random.default_rng(seed)
    return [
        generator.integers(1, sentence + 1, generator.integers(1, longest + 1)).tolist()
        for _ in range(num_documents)
    ]


def document_ranges(documents, gap=7):
    position = 3
    for document in documents:
        yield position, position + sum(document)
        position += sum(document) + gap


def documents_of(documents, starts):
    return np.searchsorted([begin for begin, _ in document_ranges(documents)], starts, side="right") - 1


def slow_truncate(a, b, limit, chance):
    """Token by token, as the program published with BERT; a and b are lists."""
    a, b = list(a), list(b)
    while len(a) + len(b) > limit:
        longer = a if len(a) > len(b) else b
        if chance.random() < 0.5:
            del longer[0]
        else:
            longer.pop()
    return a, b


def slow_chunks(document, limit, short_probability, chance, next_sentence):
    """The (first, middle, end) of each chunk of one document, sentence by sentence; with "nsp" by chance."""
    position, chunks = 0, []
    while position < len(document):
        lone = len(document) - position == 1
        position -= lone
        target = chance.randint(2, limit) if chance.random() < short_probability else limit
        end, tokens = position, 0
        while end < len(document) and (tokens < target or end - position < 2):
            tokens += document[end]
            end += 1
        middle = position + chance.randint(1, end - position - 1)
        chunks.append((position, middle, end))
        unused = next_sentence == "nsp" and chance.random() < 0.5 and not lone
        position = middle if unused else end
    return chunks


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20),
    limit=st.integers(2, 70),
)
def test_truncation_lengths_are_those_of_the_loop(pairs, limit):
    lengths = np.array(pairs)
    starts = np.tile(np.array([1000, 2000]), (len(pairs), 1))
    new_starts, new_lengths = truncate_pairs(starts, lengths, limit, np.random.default_rng(0))
    chance = random.Random(0)
    expected = [[len(part) for part in slow_truncate(range(a), range(b), limit, chance)] for a, b in pairs]
    assert new_lengths.tolist() == expected
    assert (new_lengths >= 1).all()
    assert (new_starts >= starts).all() and (new_starts + new_lengths <= starts + lengths).all()


def test_truncation_cuts_front_and_back_alike():
    number = 4_000
    starts, lengths = np.zeros((number, 2), np.int64), np.tile(np.array([30, 14]), (number, 1))
    front, _ = truncate_pairs(starts, lengths, 24, np.random.default_rng(0))  # 18 go from A, 2 from B
    chance = random.Random(1)
    slow = np.array([slow_truncate(range(30), range(14), 24, chance)[0][0] for _ in range(number)])
    assert front[:, 0].mean() == pytest.approx(slow.mean(), abs=5 * np.sqrt(18 / 4 * 2 / number))
    assert front[:, 0].var() == pytest.approx(18 / 4, rel=0.15)
    assert front[:, 1].mean() == pytest.approx(1, abs=5 * np.sqrt(0.5 / number))


@pytest.mark.parametrize("sequence_length", [16, 64, 128])
def test_sentence_order_chunks_are_those_of_the_slow_version(sequence_length):
    documents = random_documents(0, 40)
    plan = plan_pairs(
        corpus(documents),
        sequence_length=sequence_length,
        seed=1,
        epoch=0,
        short_sequence_probability=0,
        next_sentence="sop",
    )
    chance, expected = random.Random(0), 0
    for document in documents:
        if len(document) > 1:
            expected += len(slow_chunks(document, sequence_length - 3, 0, chance, "sop"))
    assert len(plan) == expected  # chunks do not depend on chance here


def test_next_sentence_chunks_are_as_many_as_in_the_slow_version():
    documents = random_documents(2, 60)
    store, chance = corpus(documents), random.Random(3)
    fast = [len(plan_pairs(store, sequence_length=48, seed=0, epoch=epoch)) for epoch in range(60)]
    slow = [
        sum(len(slow_chunks(document, 45, 0.1, chance, "nsp")) for document in documents if len(document) > 1)
        for _ in range(60)
    ]
    assert abs(np.mean(fast) - np.mean(slow)) < 4 * np.sqrt((np.var(fast) + np.var(slow)) / 60)


def test_pieces_of_giant_documents_change_little(monkeypatch):
    documents = [*random_documents(4, 2, longest=8), [20] * 3_000]
    settings = {"sequence_length": 64, "seed": 0, "epoch": 0, "next_sentence": "sop"}
    whole = plan_pairs(corpus(documents), **settings, short_sequence_probability=0)
    monkeypatch.setattr(sentence_pairs, "PIECE_TOKENS", 1_000)
    cut = plan_pairs(corpus(documents), **settings, short_sequence_probability=0)
    assert len(whole) <= len(cut) <= len(whole) + 70
    covered = np.zeros(len(corpus(documents).tokens), bool)
    for start, length in zip(cut.starts.ravel(), cut.lengths.ravel(), strict=True):
        covered[start : start + length] = True
    assert covered[-60_000:-10].mean() > 0.7  # truncation alone is missing


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 5),
    num_documents=st.integers(2, 8),
    sequence_length=st.integers(8, 80),
    longest=st.integers(2, 40),
    next_sentence=st.sampled_from(["nsp", "sop"]),
)
def test_rules_of_pairs(seed, epoch, num_documents, sequence_length, longest, next_sentence):
    documents = [[5, 5], *random_documents(seed, num_documents - 1, longest)]
    store = corpus(documents)
    plan = plan_pairs(
        store, sequence_length=sequence_length, seed=seed, epoch=epoch, next_sentence=next_sentence
    )
    limit = sequence_length - 3
    total = plan.lengths.sum(axis=1)
    assert (plan.lengths >= 1).all() and (total <= limit).all()
    assert (plan.sequence_lengths == total + 3).all()
    own = documents_of(documents, plan.starts)  # (pairs, 2)
    ends = np.array([end for _, end in document_ranges(documents)])
    assert (plan.starts + plan.lengths <= ends[own]).all()
    first = np.where(plan.labels == 1, 1, 0) if next_sentence == "sop" else np.zeros(len(plan), int)
    rows = np.arange(len(plan))
    gap = plan.starts[rows, 1 - first] - (plan.starts[rows, first] + plan.lengths[rows, first])
    follows = np.ones(len(plan), bool) if next_sentence == "sop" else plan.labels == 0
    assert (own[follows, 0] == own[follows, 1]).all()
    assert (own[~follows, 0] != own[~follows, 1]).all()
    assert (gap[follows] >= 0).all()
    assert (gap[follows & (total < limit)] == 0).all()  # not truncated
    begins = set(store.sentence_starts.tolist())
    assert all(start in begins for start in plan.starts[total < limit].ravel())


@pytest.mark.parametrize("next_sentence", ["nsp", "sop"])
@pytest.mark.parametrize("shape", ["mixed", "two sentences", "many of one sentence"])
def test_half_of_the_pairs_are_of_each_class(next_sentence, shape):
    documents = {
        "mixed": random_documents(5, 3_000),
        "two sentences": [[10, 10]] * 8_000,
        "many of one sentence": [[9]] * 3_000 + [[9, 9, 9]] * 6_000,
    }[shape]
    labels = plan_pairs(
        corpus(documents), sequence_length=64, seed=0, epoch=0, next_sentence=next_sentence
    ).labels
    assert len(labels) > 5_000
    assert abs(labels.mean() - 0.5) < 4 * np.sqrt(0.25 / len(labels))


def test_a_tenth_of_the_chunks_is_short():
    # One-token sentences: a chunk has exactly the target's length, and nothing is truncated.
    documents = [[1] * 3_000 for _ in range(100)]
    plan = plan_pairs(corpus(documents), sequence_length=35, seed=0, epoch=0, next_sentence="sop")
    total = plan.lengths.sum(axis=1)
    short = (total < 32).mean()
    expected = 0.1 * 30 / 31  # the lengths 2 to 32 are drawn, of which 32 is not short
    assert abs(short - expected) < 5 * np.sqrt(0.1 / len(plan)) + 0.01  # documents' ends are short, too
    counts = np.bincount(total, minlength=33)[2:32]
    assert counts.min() > 0.6 * counts.mean()


def test_random_segments_come_from_all_other_documents_alike():
    documents = [[5] * 4, [5] * 400, [5], [5] * 40]
    plan = plan_pairs(corpus(documents), sequence_length=8, seed=0, epoch=0)
    own = documents_of(documents, plan.starts)
    of_the_long = own[(plan.labels == 1) & (own[:, 0] == 1), 1]
    counts = np.bincount(of_the_long, minlength=4)
    assert counts[1] == 0 and len(of_the_long) > 100
    assert (abs(counts[[0, 2, 3]] - len(of_the_long) / 3) < 4 * np.sqrt(len(of_the_long) * 2 / 9)).all()
    assert not (own[:, 0] == 2).any()  # a document of one sentence has no A


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), sequence_length=st.integers(8, 60), num_documents=st.integers(1, 6))
def test_single_segments_hold_each_token_once(seed, sequence_length, num_documents):
    documents = random_documents(seed, num_documents, sentence=90)
    store = corpus(documents)
    plan = plan_pairs(store, sequence_length=sequence_length, seed=seed, epoch=0, next_sentence=None)
    limit = sequence_length - 2
    expected = []
    for (position, _), document in zip(document_ranges(documents), documents, strict=True):
        parts = [min(limit, length - cut) for length in document for cut in range(0, length, limit)]
        row = 0
        for part in parts:
            if row + part > limit:
                expected.append((position, row))
                position, row = position + row, 0
            row += part
        expected.append((position, row))
    rows = zip(plan.starts[:, 0].tolist(), plan.lengths[:, 0].tolist(), strict=True)
    assert sorted(rows) == sorted(expected)
    assert not plan.lengths[:, 1].any() and not plan.labels.any()


def test_a_plan_depends_on_seed_and_epoch_alone():
    store = corpus(random_documents(6, 50))
    settings = {"sequence_length": 32, "seed": 3, "epoch": 2}
    first, again = plan_pairs(store, **settings), plan_pairs(store, **settings)
    assert (first.starts == again.starts).all() and (first.lengths == again.lengths).all()
    assert (first.labels == again.labels).all()
    for change in ({"seed": 4}, {"epoch": 3}):
        other = plan_pairs(store, **{**settings, **change})
        assert len(other) != len(first) or (other.starts != first.starts).any()
    # Shuffled: the documents do not come in their order.
    assert (np.diff(first.starts[:, 0]) < 0).mean() > 0.4


def test_streams_differ_by_purpose_and_index():
    draws = {random_stream(1, purpose, index).integers(2**63) for purpose in (1, 2) for index in range(50)}
    assert len(draws) == 100
    with pytest.raises(InputError, match="seed is -1"):
        random_stream(-1, 1, 0)


def test_empty_sentences_and_documents_do_no_harm():
    plan = plan_pairs(corpus([[], [4, 0, 4], [], [0], [3, 3, 0]]), sequence_length=16, seed=0, epoch=0)
    assert (plan.lengths > 0).all()


@pytest.mark.parametrize(
    ("documents", "settings", "message"),
    [
        ([[5, 5]], {}, "at least two documents, the corpus has 1: separate documents by blank lines"),
        ([[5], [5]], {}, "no sentence pairs in 2 documents, as none has two sentences"),
        ([[5], [5]], {"next_sentence": "sop"}, "no sentence pairs in 2 documents"),
        ([[]], {"next_sentence": None}, "no tokens"),
        ([[5, 5]] * 2, {"sequence_length": 7}, "sequence_length is 7"),
        ([[5, 5]] * 2, {"short_sequence_probability": 2}, "short_sequence_probability is 2"),
        ([[5, 5]] * 2, {"next_sentence": "next"}, "'next'"),
    ],
)
def test_what_cannot_be_planned_is_named(documents, settings, message):
    with pytest.raises(InputError, match=message):
        plan_pairs(corpus(documents), **{"sequence_length": 16, "seed": 0, "epoch": 0, **settings})
