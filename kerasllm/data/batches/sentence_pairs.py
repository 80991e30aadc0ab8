"""An epoch of pre-training examples, planned as arrays before any token is read.

The sentences of a document lie side by side in the token store, so a segment is a range: a start and a length
are all a plan holds of it. Planning walks all documents in step, chunk by chunk, in vectors; giant documents
are cut into pieces first (for planning only), or one long book would make the walk as long as the book.

The plan is a pure function of the store, the seed and the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kerasllm.data.random_streams import PLANNING, random_stream
from kerasllm.errors import InputError

if TYPE_CHECKING:
    from kerasllm.data.token_cache.store import TokenStore

NextSentence = Literal["nsp", "sop"] | None

PIECE_TOKENS = 65_536
SHORTEST_SEQUENCE = 8


@dataclass(frozen=True)
class PairPlan:
    """The examples of one epoch, in the order in which they are to be used.

    Args:
        starts: int64 (examples, 2), where segments A and B begin in the store's flat token array.
        lengths: int32 (examples, 2), their lengths in tokens; B is 0 long in examples of a single segment.
        labels: int8 (examples,), 0: B follows A; 1: B is from another document ("nsp"), or the two are
            swapped ("sop"). All 0 for single segments.
    """

    starts: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each example, [CLS] and [SEP] counted in."""
        return self.lengths.sum(axis=1) + np.where(self.lengths[:, 1] > 0, 3, 2)


@dataclass(frozen=True)
class _Sentences:
    """The store's sentences without empty ones, and its documents without empty ones."""

    starts: np.ndarray  # (sentences,) in tokens of the flat array
    cumulative: np.ndarray  # (sentences + 1,) tokens before each sentence, in the order of the store
    offsets: np.ndarray  # (documents + 1,) in sentences

    @classmethod
    def of(cls, store: TokenStore) -> _Sentences:
        starts = np.asarray(store.sentence_starts, dtype=np.int64)
        lengths = np.asarray(store.sentence_ends, dtype=np.int64) - starts
        real = lengths > 0
        offsets = np.concatenate([[0], np.cumsum(real)])[np.asarray(store.document_offsets, dtype=np.int64)]
        starts, lengths = starts[real], lengths[real]
        # Equal neighbors among the offsets are documents without a sentence.
        return cls(starts, np.concatenate([[0], np.cumsum(lengths)]), np.unique(offsets))

    def split_longer_than(self, limit: int) -> _Sentences:
        """Cuts sentences of more than `limit` tokens into parts of `limit` tokens and a rest."""
        lengths = np.diff(self.cumulative)
        parts = -(-lengths // limit)
        before = np.concatenate([[0], np.cumsum(parts)])
        part = np.arange(before[-1]) - np.repeat(before[:-1], parts)
        part_lengths = np.minimum(np.repeat(lengths, parts) - part * limit, limit)
        cumulative = np.concatenate([[0], np.cumsum(part_lengths)])
        return _Sentences(np.repeat(self.starts, parts) + part * limit, cumulative, before[self.offsets])

    def pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns first sentence, sentence behind the last, and document of each piece of about `PIECE_TOKENS`."""
        document = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        inside = self.cumulative[:-1] - self.cumulative[self.offsets[document]]
        new_document = np.diff(document, prepend=-1) != 0
        bounds = np.flatnonzero((np.diff(inside // PIECE_TOKENS, prepend=-1) != 0) | new_document)
        # A cut inside a document must leave two sentences on both sides, or a pair would be lost to it.
        sizes = np.diff(bounds, append=len(document))
        fine = (sizes >= 2) & (np.concatenate([[2], sizes[:-1]]) >= 2)
        bounds = bounds[fine | new_document[bounds]]
        return bounds, np.append(bounds[1:], len(document)), document[bounds]


def plan_pairs(
    store: TokenStore,
    *,
    sequence_length: int,
    seed: int,
    epoch: int,
    short_sequence_probability: float = 0.1,
    next_sentence: NextSentence = "nsp",
) -> PairPlan:
    """Plan the examples of one epoch as BERT's authors made theirs.

    A document is taken chunk by chunk. A chunk is as many sentences as reach `sequence_length - 3` tokens,
    or, with probability `short_sequence_probability`, a length drawn from 2 to that; it has two sentences at
    least (the last sentence of a document is joined by the one before it). Segment A is the first few of its
    sentences, how many is drawn at random. What B is depends on the objective:

    - "nsp", next-sentence prediction: with probability 0.5 the rest of the chunk, label 0. Otherwise
      sentences of another document (drawn uniformly, from a sentence drawn uniformly) up to the length
      wanted or to that document's end, label 1; the sentences of the chunk that were not used begin the next
      chunk. The authors' program calls a chunk of one sentence "random" always; here it is 50 % on any
      corpus.
    - "sop", sentence-order prediction: the rest of the chunk; with probability 0.5 A and B are swapped,
      label 1.
    - None: there is no B. A row holds as many whole sentences as fit into `sequence_length - 2` tokens, never
      of two documents, and no short rows are drawn (DOC-SENTENCES of RoBERTa); only a sentence that is longer
      than a row is cut into several.

    Pairs that are too long lose tokens from the longer segment, each at the front or the back with equal
    probability. Documents of one sentence serve as random B only. The examples come shuffled.

    Args:
        store: the tokenized corpus.
        sequence_length: tokens of a row, [CLS] and [SEP] included, at least 8.
        seed: of the random numbers.
        epoch: from 0; each has its own cuts, pairs and order.
        short_sequence_probability: of a chunk shorter than the row, in [0, 1]. Not used without pairs.
        next_sentence: "nsp", "sop" or None.

    Returns:
        The plan, of at least one example.

    Raises:
        InputError: `sequence_length` is too small, or the corpus has no such pairs.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, appendix A.2; Lan et al. 2020 (sop),
    https://arxiv.org/abs/1909.11942, section 3.1; Liu et al. 2019, https://arxiv.org/abs/1907.11692, section
    4.2.
    """
    if sequence_length < SHORTEST_SEQUENCE:
        raise InputError(f"sequence_length is {sequence_length}, it must be at least {SHORTEST_SEQUENCE}")
    if not 0 <= short_sequence_probability <= 1:
        raise InputError(f"short_sequence_probability is {short_sequence_probability}, it must lie in [0, 1]")
    if next_sentence not in ("nsp", "sop", None):
        raise InputError(f"next_sentence is {next_sentence!r}, it must be 'nsp', 'sop' or None")
    sentences = _Sentences.of(store)
    _check(sentences, next_sentence)
    rng = random_stream(seed, PLANNING, epoch)
    if next_sentence is None:
        starts, lengths = _pack(sentences.split_longer_than(sequence_length - 2), sequence_length - 2)
        labels = np.zeros(len(starts), np.int8)
    else:
        starts, lengths, labels = _pair(
            sentences, sequence_length - 3, short_sequence_probability, next_sentence, rng
        )
    order = rng.permutation(len(labels))
    return PairPlan(starts[order], lengths[order].astype(np.int32), labels[order])


def _check(sentences: _Sentences, next_sentence: NextSentence) -> None:
    num_documents = len(sentences.offsets) - 1
    if num_documents == 0:
        raise InputError("the corpus holds no tokens: give it text")
    if next_sentence == "nsp" and num_documents < 2:
        raise InputError(
            f"next-sentence prediction needs at least two documents, the corpus has {num_documents}: "
            "separate documents by blank lines or use --objectives masked_lm"
        )
    if next_sentence is not None and np.diff(sentences.offsets).max() < 2:
        raise InputError(
            f"none of the {num_documents} documents has two sentences, so there are no sentence pairs: "
            "separate documents by blank lines, not sentences, or use --objectives masked_lm"
        )


def _pack(sentences: _Sentences, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of whole sentences: starts and lengths, (rows, 2) each, the second column empty."""
    cumulative = sentences.cumulative
    position, stop, _ = sentences.pieces()
    firsts, ends = [], []
    while len(position):
        end = np.searchsorted(cumulative, cumulative[position] + limit, side="right") - 1
        end = np.minimum(end, stop)
        firsts.append(position)
        ends.append(end)
        going_on = end < stop
        position, stop = end[going_on], stop[going_on]
    first, end = np.concatenate(firsts), np.concatenate(ends)
    starts, lengths = sentences.starts[first], cumulative[end] - cumulative[first]
    return np.stack([starts, starts], axis=1), np.stack([lengths, np.zeros_like(lengths)], axis=1)


def _pair(
    sentences: _Sentences,
    limit: int,
    short_sequence_probability: float,
    next_sentence: Literal["nsp", "sop"],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts (pairs, 2), lengths (pairs, 2) and labels (pairs,)."""
    cumulative = sentences.cumulative
    position, stop, document = sentences.pieces()
    with_pairs = stop - position >= 2
    position, stop, document = position[with_pairs], stop[with_pairs], document[with_pairs]
    chunks = []
    while len(position):
        lone = stop - position == 1  # stepping back is possible: a piece here has two sentences at least
        position = position - lone
        target = np.full(len(position), limit)
        short = np.flatnonzero(rng.random(len(position)) < short_sequence_probability)
        target[short] = rng.integers(2, limit + 1, size=len(short))
        end = np.searchsorted(cumulative, cumulative[position] + target, side="left")
        end = np.minimum(np.maximum(end, position + 2), stop)
        middle = position + rng.integers(1, end - position)
        label = rng.random(len(position)) < 0.5
        chunks.append(np.stack([position, middle, end, target, document, label]))
        # Sentences that a random B left unused come again, but not for ever: a lone one ends its document.
        position = np.where(label & ~lone, middle, end) if next_sentence == "nsp" else end
        going_on = position < stop
        position, stop, document = position[going_on], stop[going_on], document[going_on]
    first, middle, end, target, document, labels = np.concatenate(chunks, axis=1)
    bounds_a = np.stack([first, middle])  # first sentence, sentence behind the last
    bounds_b = np.stack([middle, end])
    other = np.flatnonzero(labels)
    if next_sentence == "nsp":
        wanted = target[other] - (cumulative[middle[other]] - cumulative[first[other]])
        bounds_b[:, other] = _from_other_documents(sentences, document[other], wanted, rng)
    else:
        bounds_a[:, other], bounds_b[:, other] = bounds_b[:, other], bounds_a[:, other]
    begin = np.stack([bounds_a[0], bounds_b[0]], axis=1)
    lengths = np.stack([bounds_a[1], bounds_b[1]], axis=1)
    lengths = cumulative[lengths] - cumulative[begin]
    starts, lengths = truncate_pairs(sentences.starts[begin], lengths, limit, rng)
    return starts, lengths, labels.astype(np.int8)


def _from_other_documents(
    sentences: _Sentences, document: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws for each document sentences of another one, `wanted` tokens or more where it has them: first, end."""
    offsets, cumulative = sentences.offsets, sentences.cumulative
    other = rng.integers(0, len(offsets) - 2, size=len(document))
    other += other >= document
    first = rng.integers(offsets[other], offsets[other + 1])
    end = np.searchsorted(cumulative, cumulative[first] + wanted, side="left")
    return first, np.minimum(np.maximum(end, first + 1), offsets[other + 1])


def truncate_pairs(
    starts: np.ndarray, lengths: np.ndarray, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut pairs down to `limit` tokens, as if token by token from whichever segment is the longer.

    That comes to: the longer falls to the length of the shorter, then both fall evenly, B first. Each token
    goes at the front or the back with equal probability, so the number cut at the front is binomial.

    Args:
        starts: int64 (pairs, 2), in tokens.
        lengths: int64 (pairs, 2), each at least 1.
        limit: the most tokens of A and B together, at least 2.
        rng: the random numbers.

    Returns:
        The new starts and lengths; no length is 0.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, and the program published with it.
    """
    excess = np.maximum(lengths.sum(axis=1) - limit, 0)
    difference = lengths[:, 0] - lengths[:, 1]
    from_longer = np.minimum(excess, np.abs(difference))
    evenly = excess - from_longer
    cut_a = np.where(difference > 0, from_longer, 0) + evenly // 2
    cut = np.stack([cut_a, excess - cut_a], axis=1)
    front = np.zeros_like(cut)
    some = cut > 0
    front[some] = rng.binomial(cut[some], 0.5)
    return starts + front, lengths - cut
