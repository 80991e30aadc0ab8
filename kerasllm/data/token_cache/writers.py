"""Writing of the files of token cache entries, chunk by chunk."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.text import Piece
from kerasllm.data.sources.tokenized import META_FILE, TOKEN_FILE
from kerasllm.data.token_cache.tokenization import TokenizedPieces
from kerasllm.errors import InputError
from kerasllm.files.json import write_json
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.special_tokens import end_of_text_id

FORMAT_VERSION = 1
SENTENCE_OFFSETS = "sentence_offsets.int64"
DOCUMENT_OFFSETS = "document_offsets.int64"
PARAGRAPH_OFFSETS = "paragraph_offsets.int64"


class StoreWriter(ABC):
    """The base class of writers of an entry's files, which are complete after `finish`.

    Args:
        directory: the directory of the files.
        tokenizer: the tokenizer that the tokens are from.
    """

    dtypes: Sequence[str] = ("uint16", "uint32")
    files: Sequence[str] = (TOKEN_FILE,)

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        size = vocabulary_size(tokenizer)
        self.dtype = next(dtype for dtype in self.dtypes if size - 1 <= np.iinfo(dtype).max)
        self.num_tokens = 0
        self._directory = directory
        self._meta: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "dtype": self.dtype,
            "vocabulary_size": size,
        }
        self._files: dict[str, IO[bytes]] = {name: (directory / name).open("wb") for name in self.files}
        for name in self.files[1:]:
            self._append(name, np.zeros(1))

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    @abstractmethod
    def write(self, chunk: Sequence[Piece], tokenized: TokenizedPieces) -> None:
        """Appends the tokens of some pieces, which follow the earlier ones."""

    def finish(self) -> None:
        """Syncs the files to the disk, and writes meta.json with their sizes.

        Raises:
            InputError: there are no tokens.
        """
        if self.num_tokens == 0:
            raise InputError(
                "the tokenizer finds no token in the corpus; is it of another script or language?"
            )
        sizes = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        write_json(self._directory / META_FILE, {**self._meta, "sizes": sizes})

    def _append(self, name: str, values: np.ndarray | list[int]) -> None:
        dtype = self.dtype if name == TOKEN_FILE else np.int64
        self._files[name].write(np.asarray(values, dtype=dtype).tobytes())


class SentenceWriter(StoreWriter):
    """A writer of tokens, sentence offsets (in tokens), and document and paragraph offsets (in sentences)."""

    files = (TOKEN_FILE, SENTENCE_OFFSETS, DOCUMENT_OFFSETS, PARAGRAPH_OFFSETS)

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        super().__init__(directory, tokenizer)
        self._num_sentences = 0
        self._document_start = 0  # index of a sentence

    def write(self, chunk: Sequence[Piece], tokenized: TokenizedPieces) -> None:
        """Appends the sentences of some pieces."""
        self._append(TOKEN_FILE, tokenized.tokens)
        if len(tokenized.sentence_lengths):
            offsets = self.num_tokens + np.cumsum(tokenized.sentence_lengths)
            self._append(SENTENCE_OFFSETS, offsets)
            self.num_tokens = int(offsets[-1])
        self._append(PARAGRAPH_OFFSETS, self._num_sentences + np.cumsum(tokenized.sentences_per_paragraph))
        ends = []
        for piece, num_sentences in zip(chunk, tokenized.sentences_per_piece.tolist(), strict=True):
            self._num_sentences += num_sentences
            if piece.ends_document and self._num_sentences > self._document_start:
                ends.append(self._num_sentences)
                self._document_start = self._num_sentences
        self._append(DOCUMENT_OFFSETS, ends)

    def finish(self) -> None:
        """Ends the last document, and finishes the files as `StoreWriter.finish` does."""
        if self._num_sentences > self._document_start:
            self._append(DOCUMENT_OFFSETS, [self._num_sentences])
        super().finish()


class StreamWriter(StoreWriter):
    """A writer of tokens, with an end mark after each document, and of document offsets (in tokens)."""

    dtypes = ("uint8", "uint16", "uint32")
    files = (TOKEN_FILE, DOCUMENT_OFFSETS)

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        super().__init__(directory, tokenizer)
        self._meta["end_id"] = self._end_id = end_of_text_id(tokenizer)
        self._open_tokens = 0  # number of tokens in the unfinished document

    def write(self, chunk: Sequence[Piece], tokenized: TokenizedPieces) -> None:
        """Appends the tokens of some pieces, with an end mark after each document."""
        through = np.cumsum(tokenized.sentence_lengths)  # tokens up to the end of each piece
        ends = through[[piece.ends_document for piece in chunk]]
        ends = ends[np.diff(ends, prepend=-self._open_tokens) > 0]  # documents without tokens are left out
        self._append(TOKEN_FILE, np.insert(tokenized.tokens, ends, self._end_id))
        self._append(DOCUMENT_OFFSETS, self.num_tokens + ends + np.arange(1, len(ends) + 1))
        self.num_tokens += len(tokenized.tokens) + len(ends)
        self._open_tokens = len(tokenized.tokens) + (-int(ends[-1]) if len(ends) else self._open_tokens)

    def finish(self) -> None:
        """Ends the last document, and finishes the files as `StoreWriter.finish` does."""
        if self._open_tokens:
            self._append(TOKEN_FILE, [self._end_id])
            self.num_tokens += 1
            self._append(DOCUMENT_OFFSETS, [self.num_tokens])
        super().finish()
