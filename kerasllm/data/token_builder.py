"""Builds a token store: pieces of the corpus go to the tokenisers and come back, in order, onto the disk.

Only a bounded number of pieces is under way at a time, so that neither the corpus nor its tokens are ever in
memory as a whole.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import TracebackType

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.corpora import Corpus
from kerasllm.data.progress import ByteProgress
from kerasllm.data.store_files import TOKEN_FILE, build_directory, sync_directory
from kerasllm.data.text_pieces import Piece
from kerasllm.data.token_worker import PieceTokenizer, TokenizedPieces
from kerasllm.data.worker_pool import WorkerPool
from kerasllm.errors import InputError

_CHUNK_SIZE = 1 << 19  # characters that one request to a worker holds
_SMALL_CORPUS = 8  # chunks; below this the workers' start would cost more than they save
_MOST_PROCESSES = 32

_Chunk = list[Piece]


@contextmanager
def build_store(
    corpus: Corpus, tokenizer: str, cache: Path, key: str, processes: int | None, progress: bool
) -> Iterator[Path]:
    """Tokenises a corpus into a directory of its own, which the caller renames; it is removed if still there.

    Args:
        corpus: to be read once.
        tokenizer: its JSON, without truncation and padding.
        cache: where the directory is made.
        key: the store's name.
        processes: that tokenise; None for one a processor.
        progress: whether to draw a progress bar.

    Raises:
        InputError: the corpus cannot be read or holds no tokens.
        RuntimeError: a worker process died.
    """
    directory = build_directory(cache, key)
    directory.mkdir()
    try:
        vocabulary = Tokenizer.from_str(tokenizer).get_vocab(with_added_tokens=True)
        vocabulary_size = max(vocabulary.values(), default=-1) + 1
        dtype = "uint16" if vocabulary_size <= 1 << 16 else "uint32"
        with _Writer(directory, dtype, vocabulary_size) as writer, ByteProgress(corpus.size, progress) as bar:
            for chunk, tokenized in _tokenized_chunks(corpus, tokenizer, dtype, processes):
                writer.write(chunk, tokenized)
                bar.advance(sum(len(piece.text) for piece in chunk))
            writer.finish()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _tokenized_chunks(
    corpus: Corpus, tokenizer: str, dtype: str, processes: int | None
) -> Iterator[tuple[_Chunk, TokenizedPieces]]:
    """Chunks of the corpus and their tokens, in order: of a small corpus here, else by worker processes."""
    chunks = _chunks(corpus)
    first = list(islice(chunks, _SMALL_CORPUS))
    processes = min(processes or _processors(), _MOST_PROCESSES)
    if len(first) < _SMALL_CORPUS or processes == 1:
        here = PieceTokenizer(tokenizer, dtype)
        for chunk in chain(first, chunks):
            yield chunk, here.tokenize([piece.text for piece in chunk])
        return
    with WorkerPool(processes, tokenizer, dtype) as pool:
        under_way: deque[tuple[_Chunk, Future[TokenizedPieces]]] = deque()
        for chunk in chain(first, chunks):
            under_way.append((chunk, pool.submit([piece.text for piece in chunk])))
            if len(under_way) > 2 * processes:
                done, future = under_way.popleft()
                yield done, future.result()
        while under_way:
            done, future = under_way.popleft()
            yield done, future.result()


def _chunks(corpus: Corpus) -> Iterator[_Chunk]:
    chunk: _Chunk = []
    size = 0
    for piece in corpus.pieces():
        chunk.append(piece)
        size += len(piece.text) + 16  # so that a million empty documents make more than one chunk
        if size >= _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _processors() -> int:
    """Processors that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Writer:
    """Appends tokens and offsets to the files of a store; they are complete after `finish`."""

    def __init__(self, directory: Path, dtype: str, vocabulary_size: int) -> None:
        self._directory = directory
        self._meta = {"format_version": 1, "dtype": dtype, "vocabulary_size": vocabulary_size}
        self._tokens = (directory / TOKEN_FILE).open("wb")
        self._sentences = (directory / "sentence_offsets.int64").open("wb")
        self._documents = (directory / "document_offsets.int64").open("wb")
        self._num_tokens = self._num_sentences = 0
        self._document_start = 0  # in sentences
        for file in (self._sentences, self._documents):
            file.write(np.zeros(1, dtype=np.int64).tobytes())

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._tokens, self._sentences, self._documents):
            file.close()

    def write(self, chunk: _Chunk, tokenized: TokenizedPieces) -> None:
        self._tokens.write(tokenized.tokens.tobytes())
        if len(tokenized.sentence_lengths):
            offsets = self._num_tokens + np.cumsum(tokenized.sentence_lengths)
            self._sentences.write(offsets.astype(np.int64).tobytes())
            self._num_tokens = int(offsets[-1])
        ends = []
        for piece, num_sentences in zip(chunk, tokenized.sentences_per_piece.tolist(), strict=True):
            self._num_sentences += num_sentences
            if piece.ends_document and self._num_sentences > self._document_start:
                ends.append(self._num_sentences)
                self._document_start = self._num_sentences
        self._documents.write(np.array(ends, dtype=np.int64).tobytes())

    def finish(self) -> None:
        """Ends the last document, brings everything onto the disk and writes the sizes down."""
        if self._num_tokens == 0:
            raise InputError(
                "the tokenizer finds no token in the corpus; is it of another script or language?"
            )
        if self._num_sentences > self._document_start:
            self._documents.write(np.array([self._num_sentences], dtype=np.int64).tobytes())
        sizes = {}
        for file in (self._tokens, self._sentences, self._documents):
            file.flush()
            os.fsync(file.fileno())
            sizes[Path(file.name).name] = file.tell()
        with (self._directory / "meta.json").open("w", encoding="utf-8") as meta:
            json.dump({**self._meta, "sizes": sizes}, meta, indent=2)
            meta.flush()
            os.fsync(meta.fileno())
        sync_directory(self._directory)
