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
from kerasllm.data.token_cache.writers import DOCUMENT_OFFSETS, SENTENCE_OFFSETS
from kerasllm.errors import InputError
from kerasllm.tokenizers.encoding import vocabulary_size


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
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    sentence_ends: np.ndarray
    document_offsets: np.ndarray
    vocabulary_size: int

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

        The validation store gets the number of documents that comes nearest to the fraction of *tokens*. The
        documents of both keep their order.

        Args:
            validation_fraction: share of the tokens for validation, between 0 and 1 (exclusive).
            seed: seed of the random division.
            least: the least number of documents in each part; next-sentence prediction needs two.

        Raises:
            InputError: the fraction is out of range, or there are fewer than 2 * `least` documents.
        """
        if not 0 < validation_fraction < 1:
            raise InputError(f"validation_fraction {validation_fraction} is not between 0 and 1")
        if self.num_documents < 2 * least:
            raise InputError(
                f"the corpus has {self.num_documents} document(s) and cannot be split into parts of at least "
                f"{least}; separate documents by blank lines, or name a validation corpus of its own"
            )
        order = np.random.Generator(np.random.Philox(seed)).permutation(self.num_documents)
        through = np.concatenate([[0], np.cumsum(self.sentence_ends - self.sentence_starts)])[
            self.document_offsets
        ]
        taken = np.cumsum(np.diff(through)[order])
        nearest = int(np.argmin(np.abs(taken[:-1] - validation_fraction * taken[-1]))) + 1
        nearest = min(max(nearest, least), self.num_documents - least)
        return self.select(np.sort(order[nearest:])), self.select(np.sort(order[:nearest]))


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
    files = open_files(directory, SENTENCE_OFFSETS, DOCUMENT_OFFSETS)
    if files is None:
        return None
    sentence_offsets, document_offsets = files.offsets
    if sentence_offsets[-1] != len(files.tokens) or document_offsets[-1] != len(sentence_offsets) - 1:
        return None
    return TokenStore(
        files.tokens,
        sentence_offsets[:-1],
        sentence_offsets[1:],
        document_offsets,
        files.meta["vocabulary_size"],
    )
