"""Planning of an epoch of BERT's pretraining examples, as arrays of token ranges.

The sentences of a document are contiguous in the token store, so the plan stores a segment as a start and a length.
Planning processes all documents in parallel, chunk by chunk, with vector operations. Very long documents are first
cut into pieces (for planning only), as the number of iterations grows with the longest document.

The plan is a pure function of the store, the seed and the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kerasllm.data.random_streams import PLANNING, random_stream
from kerasllm.errors import InputError, counted

if TYPE_CHECKING:
    from kerasllm.data.token_cache.store import TokenStore

NextSentence = Literal["nsp", "sop"] | None

PIECE_TOKENS = 65_536
SHORTEST_SEQUENCE = 8


@dataclass(frozen=True)
class PairPlan:
    """The examples of one epoch, in the order of use.

    Args:
        starts: int64 (examples, 2), the positions in the store's flat token array where segments A and B begin.
        lengths: int32 (examples, 2), their lengths in tokens; that of B is 0 in examples of a single segment.
        labels: int8 (examples,), 0 if B follows A, 1 if B is from another document ("nsp") or the two are swapped
            ("sop"); 0 for single segments.
    """

    starts: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """The number of tokens in each example, with [CLS] and [SEP]."""
        return self.lengths.sum(axis=1) + np.where(self.lengths[:, 1] > 0, 3, 2)


@dataclass(frozen=True)
class _Sentences:
    """The sentences and documents of the store, without empty ones."""

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
        """Returns the sentences, with longer ones cut into parts of `limit` tokens and a rest."""
        lengths = np.diff(self.cumulative)
        parts = -(-lengths // limit)
        before = np.concatenate([[0], np.cumsum(parts)])
        part = np.arange(before[-1]) - np.repeat(before[:-1], parts)
        part_lengths = np.minimum(np.repeat(lengths, parts) - part * limit, limit)
        cumulative = np.concatenate([[0], np.cumsum(part_lengths)])
        return _Sentences(np.repeat(self.starts, parts) + part * limit, cumulative, before[self.offsets])

    def pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns first sentence, end sentence (exclusive) and document of pieces of about `PIECE_TOKENS`."""
        document = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        inside = self.cumulative[:-1] - self.cumulative[self.offsets[document]]
        new_document = np.diff(document, prepend=-1) != 0
        bounds = np.flatnonzero((np.diff(inside // PIECE_TOKENS, prepend=-1) != 0) | new_document)
        # A cut inside a document must leave two sentences on both sides, so that no pair is lost.
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
    """Plans the examples of one epoch as BERT's authors did.

    Each document is divided into chunks. A chunk is as many sentences as reach `sequence_length - 3` tokens, or, with
    probability `short_sequence_probability`, a random length from 2 to that. It has at least two sentences (the last
    sentence of a document is joined by the one before it). Segment A is a random number of sentences at the beginning
    of the chunk. Segment B depends on the objective:

    - "nsp", next-sentence prediction: with probability 0.5, B is the rest of the chunk, with label 0. Otherwise B is
      from another document: from a random sentence of a random document up to the wanted length or the end of that
      document, with label 1. The unused sentences of the chunk then begin the next chunk. The authors' program always
      makes a random B for a chunk of one sentence; here the share is 50 % on any corpus.
    - "sop", sentence-order prediction: B is the rest of the chunk; with probability 0.5, A and B are swapped, with
      label 1.
    - None: there is no B. A row holds as many whole sentences of one document as fit into `sequence_length - 2`
      tokens, and no short rows are drawn (DOC-SENTENCES of RoBERTa). Only a sentence that is longer than a row is cut.

    Pairs that are too long lose tokens of the longer segment, each at the front or the back with equal probability.
    Documents of one sentence are used only as random B. The examples are shuffled.

    Args:
        store: the tokenized corpus.
        sequence_length: number of tokens in a row, with [CLS] and [SEP], at least 8.
        seed: seed of the random numbers.
        epoch: the epoch, from 0; each has different cuts, pairs and order.
        short_sequence_probability: probability of a chunk that is shorter than the row, in [0, 1]; unused for None.
        next_sentence: "nsp", "sop" or None.

    Returns:
        The plan, with at least one example.

    Raises:
        InputError: a setting is out of range, or the corpus allows no such examples.

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
            f"there are no sentence pairs in {counted(num_documents, 'document')}, as none has two sentences: "
            "separate documents by blank lines, not sentences, or use --objectives masked_lm"
        )


def _pack(sentences: _Sentences, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns starts and lengths of rows of whole sentences, (rows, 2) each, with lengths of 0 for segment B."""
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
    """Returns starts (pairs, 2), lengths (pairs, 2) and labels (pairs,)."""
    cumulative = sentences.cumulative
    position, stop, document = sentences.pieces()
    with_pairs = stop - position >= 2
    position, stop, document = position[with_pairs], stop[with_pairs], document[with_pairs]
    chunks = []
    while len(position):
        lone = stop - position == 1  # stepping back is possible, as each piece has at least two sentences
        position = position - lone
        target = np.full(len(position), limit)
        short = np.flatnonzero(rng.random(len(position)) < short_sequence_probability)
        target[short] = rng.integers(2, limit + 1, size=len(short))
        end = np.searchsorted(cumulative, cumulative[position] + target, side="left")
        end = np.minimum(np.maximum(end, position + 2), stop)
        middle = position + rng.integers(1, end - position)
        label = rng.random(len(position)) < 0.5
        chunks.append(np.stack([position, middle, end, target, document, label]))
        # Sentences that a random B left unused are used again; a single one at the end ends its document.
        position = np.where(label & ~lone, middle, end) if next_sentence == "nsp" else end
        going_on = position < stop
        position, stop, document = position[going_on], stop[going_on], document[going_on]
    first, middle, end, target, document, labels = np.concatenate(chunks, axis=1)
    bounds_a = np.stack([first, middle])  # first sentence, end sentence (exclusive)
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
    """Returns first and end sentence of a random other document, with `wanted` tokens or more if it has them."""
    offsets, cumulative = sentences.offsets, sentences.cumulative
    other = rng.integers(0, len(offsets) - 2, size=len(document))
    other += other >= document
    first = rng.integers(offsets[other], offsets[other + 1])
    end = np.searchsorted(cumulative, cumulative[first] + wanted, side="left")
    return first, np.minimum(np.maximum(end, first + 1), offsets[other + 1])


def truncate_pairs(
    starts: np.ndarray, lengths: np.ndarray, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs cut down to `limit` tokens, as if the longer segment lost one token at a time.

    So the longer segment is cut to the length of the shorter one, then both are cut evenly, B first. Each token is
    removed at the front or the back with equal probability, so the number cut at the front is binomial.

    Args:
        starts: int64 (pairs, 2), positions of tokens.
        lengths: int64 (pairs, 2), numbers of tokens, each at least 1.
        limit: the most tokens of A and B together, at least 2.
        rng: the random generator.

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
