"""A corpus as one stream of token ids on the disk, in which each document is followed by an end mark.

A causal language model reads windows of the stream. Like the token store, the stream is made once and then mapped
into memory.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.random_streams import SPLITTING, random_stream
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.build import STREAM
from kerasllm.data.token_cache.cache import open_files, open_or_build
from kerasllm.data.token_cache.writers import DOCUMENT_OFFSETS
from kerasllm.errors import InputError, counted
from kerasllm.tokenizers.encoding import encode, vocabulary_size
from kerasllm.tokenizers.special_tokens import end_of_text_id

_COPIED_AT_A_TIME = 1 << 22  # tokens


@dataclass(frozen=True, eq=False)
class TokenStream:
    """A tokenized corpus as one array of token ids.

    Args:
        tokens: uint8, uint16 or uint32 (tokens,), mapped from the disk, with `end_id` after each document. A stream
            that `split` returns may begin or end within a document.
        document_starts: int64 (documents,), positions in `tokens`; the first is 0.
        vocabulary_size: one more than the greatest id that the tokenizer knows.
        end_id: the id of the end mark, which occurs nowhere else.
    """

    tokens: np.ndarray
    document_starts: np.ndarray
    vocabulary_size: int
    end_id: int

    @property
    def num_tokens(self) -> int:
        """The number of tokens, with end marks."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """The number of documents, of which the first and the last may be incomplete."""
        return len(self.document_starts)

    def split(
        self, validation_fraction: float, by: Literal["fraction", "document"] = "fraction", seed: int = 0
    ) -> tuple["TokenStream", "TokenStream"]:
        """Returns streams for training and validation.

        By "fraction", validation is the end of the text; tokens are counted without end marks, and the end mark of a
        corpus that is a single document belongs to neither part. By "document", validation is the number of random
        documents that comes nearest to the fraction of tokens; both parts keep the order of the documents.

        Args:
            validation_fraction: share of the tokens for validation, between 0 and 1 (exclusive).
            by: "fraction" or "document".
            seed: seed of the random choice of documents.

        Raises:
            InputError: the fraction is out of range, or the corpus is too short to be split.
        """
        if not 0 < validation_fraction < 1:
            raise InputError(f"validation_fraction {validation_fraction} is not between 0 and 1")
        if by == "fraction":
            return self._split_at_fraction(validation_fraction)
        if by == "document":
            return self._split_by_document(validation_fraction, seed)
        raise InputError(f"by is {by!r}, it must be 'fraction' or 'document'")

    def _split_at_fraction(self, validation_fraction: float) -> tuple["TokenStream", "TokenStream"]:
        marked = self.num_tokens > 0 and bool(self.tokens[-1] == self.end_id)
        ends = np.append(
            self.document_starts[1:], [self.num_tokens] * marked
        )  # the position after each end mark
        words = self.num_tokens - len(ends)
        # The product is rounded first, as (1 - 0.9) * 10 is slightly less than 1.
        kept = int(round((1 - validation_fraction) * words, 6))
        # The number of end marks before token `kept`, counted without marks.
        marks = int(np.searchsorted(ends - np.arange(1, len(ends) + 1), kept, side="right"))
        place = min(kept + marks, self.num_tokens)
        stop = self.num_tokens - (marked and self.num_documents == 1)
        if place == 0 or place >= stop:
            raise InputError(
                f"the corpus of {counted(words, 'token')} is too short to set aside a validation_fraction of "
                f"{validation_fraction}; give more text, or name a --validation_corpus"
            )
        starts = self.document_starts
        later = starts[starts > place] - place
        return (
            TokenStream(self.tokens[:place], starts[starts < place], self.vocabulary_size, self.end_id),
            TokenStream(
                self.tokens[place:stop],
                np.concatenate([[0], later]).astype(np.int64),
                self.vocabulary_size,
                self.end_id,
            ),
        )

    def _split_by_document(
        self, validation_fraction: float, seed: int
    ) -> tuple["TokenStream", "TokenStream"]:
        if self.num_documents < 2:
            raise InputError(
                "the corpus is a single document, which cannot be split by documents; set --validation_split "
                "fraction, or name a --validation_corpus"
            )
        order = random_stream(seed, SPLITTING, 0).permutation(self.num_documents)
        lengths = np.diff(self.document_starts, append=self.num_tokens)
        taken = np.cumsum(lengths[order])
        number = int(np.argmin(np.abs(taken[:-1] - validation_fraction * taken[-1]))) + 1
        held_out = np.zeros(self.num_documents, dtype=bool)
        held_out[order[:number]] = True
        return self._select(~held_out, lengths), self._select(held_out, lengths)

    def _select(self, chosen: np.ndarray, lengths: np.ndarray) -> "TokenStream":
        """Returns a copy of the chosen documents, in memory if this stream is in memory, else in an unnamed file."""
        ends = np.cumsum(lengths[chosen])
        tokens = _array_like(self.tokens, int(ends[-1]))
        through = np.append(self.document_starts, self.num_tokens)
        done = first = 0
        while first < self.num_documents:
            last = int(np.searchsorted(through, through[first] + _COPIED_AT_A_TIME, side="right")) - 1
            last = max(last, first + 1)
            block = self.tokens[through[first] : through[last]]
            if last > first + 1:
                block = block[np.repeat(chosen[first:last], lengths[first:last])]
            elif not chosen[first]:
                block = block[:0]
            tokens[done : done + len(block)] = block
            done, first = done + len(block), last
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        return TokenStream(tokens, starts, self.vocabulary_size, self.end_id)


def stream_of_texts(texts: Sequence[str], tokenizer: Tokenizer) -> TokenStream:
    """Returns a stream in memory, in which the end mark follows each text.

    Args:
        texts: the texts, which are tokenized verbatim; empty ones are left out.
        tokenizer: a tokenizer with an end mark; "<|endoftext|>" and the like in a text are plain text.

    Raises:
        InputError: there are no tokens, the tokenizer has no end mark, or does not know a character.
    """
    end, size = end_of_text_id(tokenizer), vocabulary_size(tokenizer)
    found, starts, place = [], [], 0
    for index, text in enumerate(texts):
        ids = encode(tokenizer, text, f"texts[{index}]")
        if ids:
            found.append(np.array([*ids, end], np.uint16 if size <= 2**16 else np.uint32))
            starts.append(place)
            place += len(found[-1])
    if not found:
        raise InputError("texts hold no tokens: give at least one text that is not empty")
    return TokenStream(np.concatenate(found), np.array(starts, np.int64), size, end)


def tokenize_stream(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache_directory: str | os.PathLike[str] | None = None,
    *,
    processes: int | None = None,
    progress: bool = True,
) -> TokenStream:
    """Returns the token stream of a corpus, which is built first if it is not in the cache.

    Args:
        corpus: the corpus, whose text is tokenized verbatim.
        tokenizer: a tokenizer with an end mark; its truncation and padding are ignored, and "<|endoftext|>" and the
            like in the text are plain text.
        cache_directory: the directory of all streams, created if missing; `default_cache_directory()` by default.
        processes: number of processes that tokenize, by default one per processor; small corpora need none.
        progress: whether to print what is tokenized, how far it has come, and where it is kept.

    Raises:
        InputError: the corpus cannot be read, has no tokens or has a character that the tokenizer does not know, or
            the cache cannot be written.
        RuntimeError: a worker process died.
    """
    end_of_text_id(tokenizer)  # raises if there is no end mark
    return open_or_build(
        STREAM,
        open_stream,
        corpus,
        tokenizer,
        cache_directory,
        processes=processes,
        progress=progress,
    )


def open_stream(directory: Path) -> TokenStream | None:
    """Returns the stream in a directory, or None if there is none or it is damaged."""
    files = open_files(directory, DOCUMENT_OFFSETS)
    if files is None or "end_id" not in files.meta:
        return None
    (offsets,) = files.offsets
    if offsets[-1] != len(files.tokens):
        return None
    return TokenStream(files.tokens, offsets[:-1], files.meta["vocabulary_size"], int(files.meta["end_id"]))


def _array_like(tokens: np.ndarray, size: int) -> np.ndarray:
    """Returns an uninitialized array like `tokens`, mapped from an unnamed file if they are, else in memory."""
    if not isinstance(tokens, np.memmap) or tokens.filename is None:
        return np.empty(size, tokens.dtype)
    try:
        with tempfile.TemporaryFile(dir=Path(tokens.filename).parents[1]) as file:
            file.truncate(size * tokens.dtype.itemsize)
            return np.memmap(file, tokens.dtype, "r+", shape=(size,))
    except OSError as error:
        raise InputError(
            f"{Path(tokens.filename).parents[1]}: the token cache cannot be written: {error.strerror or error}; "
            "free space or set KERASLLM_CACHE to another directory"
        ) from error
