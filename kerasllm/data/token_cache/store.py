"""A corpus as token ids on the disk, made once and mapped into memory ever after.

Tokenizing dear text in every run, or holding it in memory, is what makes small machines slow. The store is
three flat files: tokens, where sentences begin, where documents begin.
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
    """Sentences as slices of one array of token ids, in documents.

    Sentence i is `tokens[sentence_starts[i]:sentence_ends[i]]`; document j holds the sentences
    `document_offsets[j]` to `document_offsets[j + 1]` (exclusive), which are contiguous in `tokens`.

    Args:
        tokens: uint16 or uint32, mapped from the disk; without special tokens.
        sentence_starts: int64 (sentences,), positions in `tokens`.
        sentence_ends: int64 (sentences,).
        document_offsets: int64 (documents + 1,), positions among the sentences.
        vocabulary_size: one more than the greatest id that the tokenizer knows.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    sentence_ends: np.ndarray
    document_offsets: np.ndarray
    vocabulary_size: int

    @property
    def num_tokens(self) -> int:
        """Tokens in the sentences of this store, which after `select` are fewer than `len(tokens)`."""
        return int((self.sentence_ends - self.sentence_starts).sum())

    @property
    def num_sentences(self) -> int:
        """Sentences in all documents."""
        return len(self.sentence_starts)

    @property
    def num_documents(self) -> int:
        """Documents, none of which is empty."""
        return len(self.document_offsets) - 1

    def sentence(self, index: int) -> np.ndarray:
        """Returns the tokens of one sentence, a view (length,)."""
        return self.tokens[self.sentence_starts[index] : self.sentence_ends[index]]

    def select(self, document_indices: Sequence[int] | np.ndarray) -> "TokenStore":
        """Returns a store of these documents, in this order, over the same tokens.

        Args:
            document_indices: from 0 to num_documents - 1.
        """
        chosen = np.asarray(document_indices, dtype=np.int64)
        starts, ends = self.document_offsets[chosen], self.document_offsets[chosen + 1]
        counts = ends - starts
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Counts on within each document, from its own first sentence.
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
        """Parts the documents into training and validation, at random; each document goes to one side.

        The validation part gets the number of documents that comes nearest to the fraction of *tokens*; the
        documents of either part keep their order.

        Args:
            validation_fraction: of the tokens, between 0 and 1 (exclusive).
            seed: the same seed gives the same parts.
            least: documents that either part has at least; next-sentence prediction needs two.

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
    """Makes a store in memory, of documents that are small and split into sentences already.

    Args:
        documents: the sentences of each; what has no tokens is left out.
        tokenizer: whose ids they become.
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
    """Opens the token store of a corpus, building it first where the cache does not hold it.

    Args:
        corpus: split into sentences, each tokenized without special tokens.
        tokenizer: its truncation and padding are set aside; "[MASK]" and the like in the text are plain text.
        cache_directory: of all stores; made if it is missing; `default_cache_directory()` unless given.
        processes: that tokenize; as many as there are processors unless given. Small corpora need none.
        progress: whether to draw a progress bar, if standard error is a terminal.

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
    """Opens the store in a directory; None where there is none, or a damaged one."""
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
