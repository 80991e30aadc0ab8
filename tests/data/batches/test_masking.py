"""Masking against the papers' rates and against its own rules, on rows of random tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.batches.masking import default_num_slots, mask_tokens
from kerasllm.errors import InputError

PAD, UNKNOWN, CLS, SEP, MASK = range(5)
SPECIAL = range(5)
VOCABULARY = 1_000
MODES = ["token", "whole_word", "span"]
CONTINUATION = np.arange(VOCABULARY) % 4 == 3  # a quarter of the pieces continue a word
CONTINUATION[:5] = False


def rows(generator, num_rows, length, shortest=None):
    """[CLS] A [SEP] B [SEP] and padding, with B from a random column on."""
    token_ids = generator.integers(5, VOCABULARY, (num_rows, length)).astype(np.int32)
    ends = generator.integers(shortest or length - 1, length, num_rows)
    token_ids[:, 0] = CLS
    token_ids[np.arange(num_rows), ends // 2] = SEP
    token_ids[np.arange(num_rows), ends] = SEP
    token_ids[np.arange(length) > ends[:, None]] = PAD
    return token_ids


def mask(token_ids, seed=0, **settings):
    settings = {"num_slots": token_ids.shape[1], "continuation": CONTINUATION, **settings}
    return mask_tokens(
        token_ids,
        token_ids != PAD,
        rng=np.random.default_rng(seed),
        mask_id=MASK,
        vocabulary_size=VOCABULARY,
        special_ids=SPECIAL,
        **settings,
    )


def words_of(row):
    """The columns of each word, in plain Python."""
    words = []
    for column, token in enumerate(row):
        if token in SPECIAL:
            continue
        if CONTINUATION[token] and words and words[-1][-1] == column - 1:
            words[-1].append(column)
        else:
            words.append([column])
    return words


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_rows=st.integers(1, 9),
    length=st.integers(8, 40),
    num_slots=st.integers(1, 12),
    probability=st.floats(0.01, 0.99),
    mode=st.sampled_from(MODES),
)
def test_rules_that_hold_for_every_batch(seed, num_rows, length, num_slots, probability, mode):
    token_ids = rows(np.random.default_rng(seed), num_rows, length, shortest=2)
    before = token_ids.copy()
    masked = mask(token_ids, seed, num_slots=num_slots, probability=probability, mode=mode)
    assert (token_ids == before).all()
    assert (
        masked.masked_positions.shape == masked.labels.shape == masked.weights.shape == (num_rows, num_slots)
    )
    assert [array.dtype for array in masked] == [np.int32, np.int32, np.int32, np.float32]
    for row in range(num_rows):
        real = masked.weights[row] == 1
        used = int(real.sum())
        assert real[:used].all() and (masked.weights[row, used:] == 0).all()
        assert (masked.masked_positions[row, used:] == 0).all() and (masked.labels[row, used:] == 0).all()
        positions = masked.masked_positions[row, :used]
        assert (np.diff(positions) > 0).all()
        assert (masked.labels[row, :used] == token_ids[row, positions]).all()
        assert not np.isin(masked.labels[row, :used], SPECIAL).any()
        untouched = np.delete(np.arange(length), positions)
        assert (masked.token_ids[row, untouched] == token_ids[row, untouched]).all()
        replaced = masked.token_ids[row, positions]
        assert ((replaced == MASK) | (replaced >= 5)).all()
        count = int((token_ids[row] >= 5).sum())
        budget = min(num_slots, max(1, int(np.floor(probability * count + 0.5)))) if count else 0
        words = words_of(token_ids[row])
        if mode == "token":
            assert used == budget
            continue
        assert used <= budget
        chosen = set(positions.tolist())
        partly = [word for word in words if 0 < len(chosen & set(word)) < len(word)]
        assert not partly
        skipped = [word for word in words if not chosen & set(word)]
        assert all(len(word) > budget - used for word in skipped)  # nothing that still fits was left out


@pytest.mark.parametrize("mode", MODES)
def test_fifteen_percent_and_80_10_10(mode):
    # Rows of many lengths: in rows of 128 alone, 18.75 tokens would always be rounded to 19.
    token_ids = rows(np.random.default_rng(1), 2_000, 160, shortest=90)
    masked = mask(token_ids, mode=mode)
    real = masked.weights == 1
    assert real.sum() / (token_ids >= 5).sum() == pytest.approx(0.15, abs=0.002)
    labels = masked.labels[real]
    now = np.take_along_axis(masked.token_ids, masked.masked_positions, axis=1)[real]
    # Spans draw once for about five tokens, so their shares scatter more.
    number = len(labels) / (5 if mode == "span" else 1)
    random_that_hits = 0.1 / (VOCABULARY - 5)
    for share, expected in [
        ((now == MASK).mean(), 0.8),
        (((now != MASK) & (now != labels)).mean(), 0.1 - random_that_hits),
        ((now == labels).mean(), 0.1 + random_that_hits),
    ]:
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / number)


def test_random_tokens_are_uniform_over_the_ordinary_vocabulary():
    vocabulary, special = 12, [0, 3, 4, 9]
    token_ids = np.full((400, 100), 5, np.int32)
    masked = mask_tokens(
        token_ids,
        np.ones_like(token_ids, bool),
        rng=np.random.default_rng(2),
        mask_id=3,
        vocabulary_size=vocabulary,
        special_ids=special,
        num_slots=50,
        probability=0.5,
    )
    now = np.take_along_axis(masked.token_ids, masked.masked_positions, axis=1).ravel()
    counts = np.bincount(now, minlength=vocabulary)
    others = counts[[1, 2, 6, 7, 8, 10, 11]]
    assert counts[[0, 4, 9]].sum() == 0
    expected = 20_000 * 0.1 / 8
    assert ((others - expected) ** 2 / expected).sum() < 24.3  # chi-squared of 7, p = 0.001


@pytest.mark.parametrize("mode", MODES)
def test_every_position_is_as_likely(mode):
    token_ids = np.full((20_000, 20), 8, np.int32)  # words of one piece
    masked = mask(token_ids, mode=mode, probability=0.25, num_slots=5)
    counts = np.bincount(masked.masked_positions[masked.weights == 1], minlength=20)
    assert counts.sum() == 100_000
    if mode == "span":  # no span comes from before the row, so fewer reach its first words
        assert (abs(counts[3:] / 5_000 - 1) < 0.1).all() and counts[0] < counts[1] < counts[2] < 5_000
    else:
        assert (abs(counts - 5_000) < 5 * np.sqrt(5_000 * 0.75)).all()


def test_span_lengths_are_geometric_and_share_one_fate():
    generator = np.random.default_rng(3)
    token_ids = (generator.integers(0, 200, (3_000, 400)) * 4 + 8).astype(np.int32)  # words of one piece
    masked = mask(token_ids, mode="span", probability=0.03)  # 12 tokens a row: spans seldom touch or are cut
    chosen = np.zeros(token_ids.shape, bool)
    np.put_along_axis(chosen, masked.masked_positions, masked.weights == 1, axis=1)
    lengths, mixed = [], 0
    for row, now, original in zip(chosen, masked.token_ids, token_ids, strict=True):
        starts = np.flatnonzero(np.diff(row.astype(int), prepend=0) == 1)
        ends = np.flatnonzero(np.diff(row.astype(int), append=0) == -1) + 1
        for start, end in zip(starts, ends, strict=True):
            lengths.append(end - start)
            fate = np.where(now[start:end] == MASK, 0, np.where(now[start:end] == original[start:end], 1, 2))
            mixed += len(set(fate)) > 1
    # 3.8 words is the paper's mean; the last span of a row is cut by the budget.
    assert 2.9 < np.mean(lengths) < 3.8
    assert np.mean(np.array(lengths) == 1) > 0.2
    assert mixed / len(lengths) < 0.05  # neighbors that touch; by token it would be half


def test_spans_do_not_cross_a_separator():
    token_ids = np.tile(np.array([CLS, 8, 8, 8, SEP, 8, 8, 8, SEP], np.int32), (6_000, 1))
    masked = mask(token_ids, mode="span", probability=0.5, num_slots=3)
    assert (masked.weights == 1).all()
    fate = np.where(masked.token_ids == MASK, 0, np.where(masked.token_ids == token_ids, 1, 2))
    both = (masked.masked_positions[:, :, None] == [3, 5]).any(axis=1).all(axis=1)  # on both sides of [SEP]
    alike = (fate[both, 3] == fate[both, 5]).mean()
    expected = 0.8**2 + 0.1**2 + 0.1**2  # two draws; one span across would always be alike
    assert both.sum() > 500
    assert abs(alike - expected) < 4 * np.sqrt(expected * (1 - expected) / both.sum())


def test_a_continuation_after_a_special_token_begins_a_word():
    token_ids = np.array([[CLS, 7, 8, SEP, 11, 12, UNKNOWN, 15]], np.int32)  # 7, 11, 15 are continuations
    seen = set()
    for seed in range(60):
        masked = mask(token_ids, seed, mode="whole_word", num_slots=1)
        seen.add(int(masked.masked_positions[0, 0]))
    assert seen == {1, 2, 4, 5, 7}


@pytest.mark.parametrize("mode", MODES)
def test_nothing_to_mask(mode):
    token_ids = np.array([[CLS, SEP, SEP, PAD], [CLS, 8, SEP, PAD]], np.int32)
    masked = mask(token_ids, mode=mode, num_slots=2)
    assert masked.weights.tolist() == [[0, 0], [1, 0]]
    only = mask(token_ids[:1], mode=mode, num_slots=2)
    assert (only.token_ids == token_ids[:1]).all() and not only.weights.any()


def test_a_word_longer_than_the_budget_is_left_alone():
    token_ids = np.array([[CLS, 8, 7, 7, 7, SEP]], np.int32)
    for mode in ("whole_word", "span"):
        assert not mask(token_ids, mode=mode).weights.any()


def test_slots_suffice_for_the_longest_row():
    assert default_num_slots(125, 0.15) == 19
    assert default_num_slots(509, 0.15) == 76
    assert default_num_slots(2, 0.15) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "words"}, "'words'"),
        ({"probability": 1.5}, "1.5"),
        ({"num_slots": 0}, "num_slots is 0"),
        ({"mode": "span", "continuation": None}, "continuation"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        mask(np.full((1, 8), 8, np.int32), **settings)
