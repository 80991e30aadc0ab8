"""A corpus as token ids on the disk, split into sentences; it is made once and then mapped into memory.

So a run need not tokenize the corpus again or hold it in memory. The store is three flat files: the tokens, the
offsets of the sentences, and the offsets of the documents.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.build import SENTENCES
from kerasllm.data.token_cache.cache import open_files, open_or_build
from kerasllm.data.token_cache.writers import DOCUMENT_OFFSETS, PARAGRAPH_OFFSETS, SENTENCE_OFFSETS
from kerasllm.errors import InputError
from kerasllm.tokenizers.encoding import vocabulary_size

_NEAR = 0.2  # the share of whole documents may differ by so much from the share that is asked for
_MISS = 1.0  # as much may a part miss what is asked for where documents have to be cut
_PARTS = 16  # number of parts of long documents that are set aside instead
_SHORTEST_PART = 128  # tokens
_LEAST_PART = 48  # tokens, in a corpus that is too small for longer ones


@dataclass(frozen=True, eq=False)
class TokenStore:
    """A tokenized corpus: documents of sentences, which are slices of one array of token ids.

    Sentence i is `tokens[sentence_starts[i]:sentence_ends[i]]`; document j holds the sentences
    `document_offsets[j]` to `document_offsets[j + 1]` (exclusive), which are contiguous in `tokens`.

    Args:
        tokens: uint16 or uint32 (tokens,), mapped from the disk, without special tokens.
        sentence_starts: int64 (sentences,), positions in `tokens`.
        sentence_ends: int64 (sentences,), positions in `tokens`, exclusive.
        document_offsets: int64 (documents + 1,), indices of sentences.
        vocabulary_size: one more than the greatest id that the tokenizer knows.
        paragraph_offsets: int64 (paragraphs + 1,), indices of sentences; None in a store that was selected from
            another or made by hand, in which each sentence counts as a paragraph.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    sentence_ends: np.ndarray
    document_offsets: np.ndarray
    vocabulary_size: int
    paragraph_offsets: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """The number of tokens in the sentences of this store, which after `select` is less than `len(tokens)`."""
        return int((self.sentence_ends - self.sentence_starts).sum())

    @property
    def num_sentences(self) -> int:
        """The number of sentences in all documents."""
        return len(self.sentence_starts)

    @property
    def num_documents(self) -> int:
        """The number of documents, none of which is empty."""
        return len(self.document_offsets) - 1

    def sentence(self, index: int) -> np.ndarray:
        """Returns the tokens of one sentence, a view (length,)."""
        return self.tokens[self.sentence_starts[index] : self.sentence_ends[index]]

    def select(self, document_indices: Sequence[int] | np.ndarray) -> "TokenStore":
        """Returns a store of these documents, in this order, over the same tokens.

        Args:
            document_indices: indices from 0 to num_documents - 1.
        """
        chosen = np.asarray(document_indices, dtype=np.int64)
        starts, ends = self.document_offsets[chosen], self.document_offsets[chosen + 1]
        counts = ends - starts
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Consecutive indices within each document, from its first sentence on.
        sentence_indices = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return TokenStore(
            self.tokens,
            self.sentence_starts[sentence_indices],
            self.sentence_ends[sentence_indices],
            offsets,
            self.vocabulary_size,
        )

    def split(
        self, validation_fraction: float, seed: int, *, least: int = 1
    ) -> tuple["TokenStore", "TokenStore"]:
        """Returns stores for training and validation, between which the documents are divided at random.

        The validation store gets the number of documents that comes nearest to the fraction of *tokens*. Where that
        is not near, as in a corpus of a few books, long documents are first cut into parts between paragraphs. A part
        that is set aside is a document, and so is what remains before, between and after such parts. The documents
        of both stores keep their order.

        Args:
            validation_fraction: share of the tokens for validation, between 0 and 1 (exclusive).
            seed: seed of the random division.
            least: the least number of documents in each part; next-sentence prediction needs two.

        Raises:
            InputError: the fraction is out of range, or there are fewer than 2 * `least` documents and they are too
                short to be cut.
        """
        if not 0 < validation_fraction < 1:
            raise InputError(f"validation_fraction {validation_fraction} is not between 0 and 1")
        through = np.concatenate([[0], np.cumsum(self.sentence_ends - self.sentence_starts)])
        wanted = validation_fraction * through[-1]
        miss = (
            _MISS * wanted
        )  # of a division of whole documents or, where there are too few, the most allowed
        if self.num_documents >= 2 * least:
            lengths = np.diff(through[self.document_offsets])
            held_out = _draw(lengths, wanted, seed, least)
            miss = abs(lengths[held_out].sum() - wanted)
            whole = self.select(np.flatnonzero(~held_out)), self.select(np.flatnonzero(held_out))
            if miss <= _NEAR * wanted:
                return whole
        longest = max(wanted / _PARTS, min(_SHORTEST_PART, wanted / least), _LEAST_PART)
        offsets = self._part_offsets(through, longest, max(longest, wanted / 2))
        lengths = np.diff(through[offsets])
        can_divide = len(lengths) >= 2 * least
        if can_divide:
            held_out = _draw(lengths, wanted, seed, least)
            can_divide = bool(abs(lengths[held_out].sum() - wanted) <= miss)
        if not can_divide:
            if self.num_documents >= 2 * least:
                return whole
            raise InputError(
                f"the corpus has {self.num_documents} document(s) and cannot be split into parts of at least "
                f"{least}; separate documents by blank lines, or name a validation corpus of its own"
            )
        parts = TokenStore(
            self.tokens, self.sentence_starts, self.sentence_ends, offsets, self.vocabulary_size
        )
        # Neighbors in one document that have the same fate stay together, unless too few documents would remain.
        begins = np.isin(offsets[:-1], self.document_offsets)
        begins[1:] |= held_out[1:] != held_out[:-1]
        joined = TokenStore(
            self.tokens,
            self.sentence_starts,
            self.sentence_ends,
            np.append(offsets[:-1][begins], offsets[-1]),
            self.vocabulary_size,
        )
        fate = held_out[begins]
        training, validation = (
            joined.select(np.flatnonzero(fate == which))
            if np.count_nonzero(fate == which) >= least
            else parts.select(np.flatnonzero(held_out == which))
            for which in (False, True)
        )
        return training, validation

    def _part_offsets(self, through: np.ndarray, longest: float, longest_paragraph: float) -> np.ndarray:
        """Returns the offsets of documents, and of parts between paragraphs of those longer than `longest` tokens.

        Args:
            through: int64 (sentences + 1,), the number of tokens before each sentence.
            longest: tokens.
            longest_paragraph: tokens; a paragraph that is longer is cut between sentences.
        """
        paragraphs = self.paragraph_offsets
        if paragraphs is None:
            paragraphs = np.arange(self.num_sentences + 1)
        # The places to cut: the sentences that begin a document, a paragraph, or stand in a long paragraph.
        places = np.zeros(self.num_sentences, bool)
        places[self.document_offsets[:-1]] = places[paragraphs[:-1]] = True
        places |= np.repeat(np.diff(through[paragraphs]) > longest_paragraph, np.diff(paragraphs))
        sentences = np.flatnonzero(places)
        document = np.searchsorted(self.document_offsets, sentences, side="right") - 1
        start, length = through[self.document_offsets[:-1]], np.diff(through[self.document_offsets])
        number = np.maximum(np.rint(length / longest), 1)
        part = ((through[sentences] - start[document]) * number[document]) // length[document]
        begins = np.ones(len(sentences), bool)
        begins[1:] = (np.diff(part) != 0) | (np.diff(document) != 0)
        return np.append(sentences[begins], self.num_sentences)


def _draw(lengths: np.ndarray, wanted: float, seed: int, least: int) -> np.ndarray:
    """Returns which of some documents are drawn, boolean (documents,): as many as come nearest to `wanted` tokens.

    Args:
        lengths: int64 (documents,), tokens of each document.
        wanted: the number of tokens.
        seed: seed of the random order.
        least: the least number of documents that are drawn, and that are not.
    """
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(lengths))
    taken = np.cumsum(lengths[order])
    nearest = int(np.argmin(np.abs(taken[:-1] - wanted))) + 1
    drawn = np.zeros(len(lengths), bool)
    drawn[order[: min(max(nearest, least), len(lengths) - least)]] = True
    return drawn


def store_of_sentences(documents: Sequence[Sequence[str]], tokenizer: Tokenizer) -> TokenStore:
    """Returns a store in memory for documents that are already split into sentences.

    Args:
        documents: the sentences of each document; sentences and documents without tokens are left out.
        tokenizer: the tokenizer.
    """
    tokens: list[int] = []
    ends: list[int] = []
    offsets = [0]
    for document in documents:
        for encoding in tokenizer.encode_batch(list(document), add_special_tokens=False):
            if encoding.ids:
                tokens += encoding.ids
                ends.append(len(tokens))
        if len(ends) > offsets[-1]:
            offsets.append(len(ends))
    stops = np.array(ends, np.int64)
    starts = np.concatenate([[0], stops[:-1]]).astype(np.int64) if ends else stops
    size = vocabulary_size(tokenizer)
    kind = np.uint16 if size <= 2**16 else np.uint32
    return TokenStore(np.array(tokens, kind), starts, stops, np.array(offsets, np.int64), size)


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache_directory: str | os.PathLike[str] | None = None,
    *,
    processes: int | None = None,
    progress: bool = True,
) -> TokenStore:
    """Returns the token store of a corpus, which is built first if it is not in the cache.

    Args:
        corpus: the corpus, which is split into sentences, each tokenized without special tokens.
        tokenizer: the tokenizer, whose truncation and padding are ignored; "[MASK]" and the like are plain text.
        cache_directory: the directory of all stores, created if missing; `default_cache_directory()` by default.
        processes: number of processes that tokenize, by default one per processor; small corpora need none.
        progress: whether to print what is tokenized, how far it has come, and where it is kept.

    Raises:
        InputError: the corpus cannot be read or holds no tokens, or the cache cannot be written.
        RuntimeError: a worker process died.
    """
    return open_or_build(
        SENTENCES,
        open_store,
        corpus,
        tokenizer,
        cache_directory,
        processes=processes,
        progress=progress,
    )


def open_store(directory: Path) -> TokenStore | None:
    """Returns the store in a directory, or None if there is none or it is damaged."""
    files = open_files(directory, SENTENCE_OFFSETS, DOCUMENT_OFFSETS, PARAGRAPH_OFFSETS)
    if files is None:  # also an entry of an earlier version, without paragraphs; it is then built again
        return None
    sentence_offsets, document_offsets, paragraph_offsets = files.offsets
    num_sentences = len(sentence_offsets) - 1
    if sentence_offsets[-1] != len(files.tokens):
        return None
    if document_offsets[-1] != num_sentences or paragraph_offsets[-1] != num_sentences:
        return None
    return TokenStore(
        files.tokens,
        sentence_offsets[:-1],
        sentence_offsets[1:],
        document_offsets,
        files.meta["vocabulary_size"],
        paragraph_offsets,
    )
