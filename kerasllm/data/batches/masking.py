"""Masking of tokens for masked-language modeling.

Masks are drawn when a batch is made, so that a sentence is masked differently each time (RoBERTa's "dynamic
masking"), while BERT's authors stored ten masked copies of their corpus. The number of masked tokens in a row is
determined by its length, so that the prediction slots are few and have a static shape. Which tokens, words or spans
are masked is random, and so are their replacements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kerasllm.errors import InputError

MaskingMode = Literal["token", "whole_word", "span"]

MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1
LONGEST_SPAN = 10
SPAN_PARAMETER = 0.2


class MaskedTokens(NamedTuple):
    """A masked batch.

    token_ids (batch, length) have the dtype of the input; masked_positions int32 (batch, slots) are ascending, with 0
    in the empty slots at the end; labels int32 (batch, slots) are the original tokens; weights float32 (batch, slots)
    are 1 for a masked position and 0 for an empty slot.
    """

    token_ids: np.ndarray
    masked_positions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def default_num_slots(num_tokens: int, probability: float) -> int:
    """Returns the number of prediction slots that a row of `num_tokens` word pieces fills."""
    return max(1, int(np.floor(probability * num_tokens + 0.5)))


def mask_tokens(
    token_ids: np.ndarray,
    maskable: np.ndarray,
    *,
    rng: np.random.Generator,
    mask_id: int,
    vocabulary_size: int,
    special_ids: Iterable[int],
    num_slots: int,
    probability: float = 0.15,
    mode: MaskingMode = "token",
    continuation: np.ndarray | None = None,
) -> MaskedTokens:
    """Chooses tokens to predict, and replaces 80 % of them by [MASK] and 10 % by a random token; 10 % are kept.

    The paper masks "15 % of all WordPiece tokens in each sequence". Here the share is of the tokens that may be
    masked. (The program published with the paper also counts [CLS] and [SEP]; in rows of 128, both give 19 tokens.)
    A row with any maskable token gets at least one masked token.

    Args:
        token_ids: integers (batch, length).
        maskable: boolean (batch, length), True for real tokens. Special tokens are never masked.
        rng: the random generator.
        mask_id: the id of [MASK].
        vocabulary_size: random tokens are drawn uniformly from [0, vocabulary_size) without the special ones.
        special_ids: ids that are neither masked nor drawn.
        num_slots: the most masked tokens in a row.
        probability: share of the tokens that are predicted, in (0, 1).
        mode: "token", "whole_word" or "span". In "whole_word", all pieces of a word are masked or none, words are
            taken in random order while they fit, and each piece draws its own kind of replacement. In "span", runs
            of 1 to 10 whole words are masked, with lengths from a geometric distribution with p = 0.2 (cut off at
            10, so 3.8 on average), and one kind of replacement is drawn per span. A span ends early at a special
            token, at an earlier span, and when the row's number of masked tokens is reached. If no more word fits,
            fewer tokens are masked.
        continuation: boolean (vocabulary,), True for a piece that continues a word; not needed by "token".

    Returns:
        The masked batch; the inputs are not changed.

    Raises:
        InputError: an argument is out of range.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.1; Joshi et
    al. 2020 (spans), https://arxiv.org/abs/1907.10529, section 3.1.
    """
    special = sorted(set(special_ids))
    _check(mode, probability, num_slots, continuation, vocabulary_size - len(special))
    for token in special:
        maskable = maskable & (token_ids != token)
    count = maskable.sum(axis=1)
    budget = np.minimum(np.maximum(np.floor(probability * count + 0.5).astype(np.int64), 1), num_slots)
    budget[count == 0] = 0
    if mode == "token":
        chosen = _choose_tokens(maskable, budget, num_slots, rng)
        rows, columns, slots = _slots(chosen)
        fate = rng.random(len(rows), dtype=np.float32)
    else:
        assert continuation is not None
        words = _Words.of(token_ids, maskable, continuation)
        if mode == "whole_word":
            rows, columns, slots = _slots(words.expand(_choose_words(words, budget, rng)))
            fate = rng.random(len(rows), dtype=np.float32)
        else:
            word_fate = _choose_spans(words, budget, rng)
            rows, columns, slots = _slots(words.expand(word_fate >= 0))
            fate = word_fate[rows, words.index[rows, columns]]
    original = token_ids[rows, columns]
    masked = token_ids.copy()
    masked[rows, columns] = _replace(original, fate, mask_id, vocabulary_size, special, rng)
    shape = (len(token_ids), num_slots)
    positions, labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    positions[rows, slots] = columns
    labels[rows, slots] = original
    weights[rows, slots] = 1
    return MaskedTokens(masked, positions, labels, weights)


def _check(
    mode: str, probability: float, num_slots: int, continuation: np.ndarray | None, num_ordinary: int
) -> None:
    if mode not in ("token", "whole_word", "span"):
        raise InputError(f"masking is {mode!r}, it must be 'token', 'whole_word' or 'span'")
    if not 0 < probability < 1:
        raise InputError(f"masking probability is {probability}, it must lie in (0, 1)")
    if num_slots < 1:
        raise InputError(f"num_slots is {num_slots}, it must be at least 1")
    if mode != "token" and continuation is None:
        raise InputError(f"masking {mode!r} must know which pieces continue a word: give `continuation`")
    if num_ordinary < 1:
        raise InputError("the vocabulary holds nothing but special tokens")


def _slots(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the row, the column and the number within the row of each True, in ascending order."""
    flat = np.flatnonzero(chosen)
    rows, columns = np.divmod(flat, chosen.shape[1])
    before = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    return rows, columns, np.arange(len(flat)) - before[rows]


def _replace(
    original: np.ndarray,
    fate: np.ndarray,
    mask_id: int,
    vocabulary_size: int,
    special: list[int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the replacements of the original tokens, chosen by `fate`, random numbers in [0, 1)."""
    replacement = original.copy()
    replacement[fate < MASKED_SHARE] = mask_id
    at_random = np.flatnonzero((fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE))
    drawn = rng.integers(0, vocabulary_size - len(special), size=len(at_random))
    for token in special:  # ascending, so the draw skips each in turn
        drawn += drawn >= token
    replacement[at_random] = drawn
    return replacement


def _choose_tokens(
    maskable: np.ndarray, budget: np.ndarray, num_slots: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns a random choice of `budget` maskable tokens in each row, boolean (batch, length)."""
    keys = rng.random(maskable.shape, dtype=np.float32)
    keys[~maskable] = 2
    kept = min(num_slots, maskable.shape[1])
    smallest = np.argpartition(keys, kept - 1, axis=1)[:, :kept]
    order = np.argsort(np.take_along_axis(keys, smallest, axis=1), axis=1)
    smallest = np.take_along_axis(smallest, order, axis=1)
    chosen = np.zeros(maskable.shape, bool)
    np.put_along_axis(chosen, smallest, np.arange(kept) < budget[:, None], axis=1)
    return chosen


@dataclass(frozen=True)
class _Words:
    """The words of each row, a piece and its continuations, with maskable tokens only."""

    maskable: np.ndarray  # (batch, length)
    index: np.ndarray  # (batch, length), number of the token's word in its row; 0 or above
    lengths: np.ndarray  # (batch, words), in tokens; 0 after the row's last word
    apart: np.ndarray  # (batch, words), True if the word does not directly follow the previous one

    @classmethod
    def of(cls, token_ids: np.ndarray, maskable: np.ndarray, continuation: np.ndarray) -> _Words:
        follows = np.zeros_like(maskable)  # the token before may be masked too
        follows[:, 1:] = maskable[:, :-1]
        begins = maskable & ~(follows & continuation[token_ids])
        index = np.maximum(np.cumsum(begins, axis=1, dtype=np.int32) - 1, 0)
        rows, columns = np.nonzero(begins)
        numbers = index[rows, columns]
        shape = (len(token_ids), int(index.max(initial=0)) + 1)
        apart = np.zeros(shape, bool)
        apart[rows, numbers] = ~follows[rows, columns]
        flat = (index + (np.arange(shape[0]) * shape[1])[:, None])[maskable]
        lengths = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        return cls(maskable, index, lengths, apart)

    def expand(self, word_chosen: np.ndarray) -> np.ndarray:
        """Returns a mask of tokens (batch, length) for a mask of words (batch, words)."""
        return np.take_along_axis(word_chosen, self.index, axis=1) & self.maskable

    def random_order(self, rng: np.random.Generator) -> np.ndarray:
        """Returns a random permutation of each row's words (batch, words), with those of length 0 last."""
        keys = rng.random(self.lengths.shape, dtype=np.float32)
        keys[self.lengths == 0] = 2
        return np.argsort(keys, axis=1)


def _choose_words(words: _Words, budget: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random choice of words that fit the budget, boolean (batch, words)."""
    order = words.random_order(rng)
    lengths = np.ascontiguousarray(np.take_along_axis(words.lengths, order, axis=1).T)  # (words, batch)
    taken = np.zeros(lengths.shape, bool)
    left = budget.copy()
    for rank, length in enumerate(lengths):  # the loop ends early, when all rows are full
        taken[rank] = (length > 0) & (length <= left)
        left -= length * taken[rank]
        if not left.any():
            break
    chosen = np.zeros(words.lengths.shape, bool)
    np.put_along_axis(chosen, order, taken.T, axis=1)
    return chosen


def _choose_spans(words: _Words, budget: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns for each word the random number in [0, 1) of its span, or -1 if it is in none, float32 (batch, words)."""
    order = words.random_order(rng)
    probabilities = (1 - SPAN_PARAMETER) ** np.arange(LONGEST_SPAN)
    steps = np.cumsum(probabilities / probabilities.sum())[:-1]
    num_words = np.searchsorted(steps, rng.random(order.shape), side="right") + 1  # (batch, words)
    draws = rng.random(order.shape, dtype=np.float32)
    # Padding with words of length 0, at which spans that reach beyond the last word end.
    lengths = np.pad(words.lengths, [(0, 0), (0, LONGEST_SPAN)])
    apart = np.pad(words.apart, [(0, 0), (0, LONGEST_SPAN)])
    fate = np.full(lengths.shape, -1, np.float32)
    left = budget.copy()
    reach = np.arange(LONGEST_SPAN)
    for rank in range(order.shape[1]):
        rows = np.flatnonzero(left)
        if not len(rows):
            break
        first = order[rows, rank]
        at = (rows[:, None], first[:, None] + reach)
        length = lengths[at]
        fits = (length > 0) & (fate[at] < 0) & (reach < num_words[rows, rank][:, None])
        fits &= ~apart[at] | (reach == 0)
        fits &= np.cumsum(length, axis=1) <= left[rows, None]
        fits = np.logical_and.accumulate(fits, axis=1)
        fate[at] = np.where(fits, draws[rows, rank][:, None], fate[at])
        left[rows] -= (length * fits).sum(axis=1)
    return fate[:, : words.lengths.shape[1]]
