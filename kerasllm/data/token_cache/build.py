"""Building of token cache entries: pieces of the corpus are tokenized and written to the disk in order.

Only a limited number of pieces is processed at a time, so that neither the corpus nor its tokens are ever in memory
as a whole.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.text import Piece
from kerasllm.data.token_cache.progress import ByteProgress
from kerasllm.data.token_cache.tokenization import Reading, TokenizedPieces, UnknownCharacter, make_tokenizer
from kerasllm.data.token_cache.workers import WorkerPool
from kerasllm.data.token_cache.writers import SentenceWriter, StoreWriter, StreamWriter
from kerasllm.tokenizers.known_characters import unknown_character

_CHUNK_SIZE = 1 << 19  # characters in one request to a worker
_SMALL_CORPUS = 8  # chunks; below this, starting workers would take longer than it saves
_MOST_PROCESSES = 32

_Chunk = list[Piece]


class Layout(NamedTuple):
    """A kind of cache entry.

    Args:
        reading: how pieces are tokenized, "sentences" or "verbatim".
        pieces: a function that yields the pieces of a corpus.
        writer: the class that writes the files.
    """

    reading: Reading
    pieces: Callable[[Corpus], Iterator[Piece]]
    writer: type[StoreWriter]


SENTENCES = Layout("sentences", Corpus.pieces, SentenceWriter)
STREAM = Layout("verbatim", Corpus.raw_pieces, StreamWriter)


@contextmanager
def build_store(
    layout: Layout,
    corpus: Corpus,
    tokenizer: str,
    cache: Path,
    key: str,
    processes: int | None,
    progress: bool,
) -> Iterator[Path]:
    """Yields a temporary directory with the tokenized corpus, which the caller renames; otherwise it is removed.

    Args:
        layout: `SENTENCES` or `STREAM`.
        corpus: the corpus, which is read once.
        tokenizer: the tokenizer's JSON, without truncation and padding.
        cache: the directory in which the temporary directory is made.
        key: the name of the entry.
        processes: number of processes that tokenize; None for one per processor.
        progress: whether to show how far it has come.

    Raises:
        InputError: the corpus cannot be read, has no tokens or, in a stream, has an unknown character.
        RuntimeError: a worker process died.
    """
    # The name distinguishes this build from others of the same entry.
    directory = cache / f".{key}.{os.getpid()}-{os.urandom(4).hex()}.building"
    directory.mkdir()
    try:
        with (
            layout.writer(directory, Tokenizer.from_str(tokenizer)) as writer,
            ByteProgress(corpus.size, progress) as bar,
        ):
            chunks = _chunks(layout.pieces(corpus))
            for chunk, tokenized in _tokenized(chunks, layout.reading, tokenizer, writer.dtype, processes):
                writer.write(chunk, tokenized)
                bar.advance(sum(len(piece.text) for piece in chunk))
            writer.finish()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _tokenized(
    chunks: Iterator[_Chunk], reading: Reading, tokenizer: str, dtype: str, processes: int | None
) -> Iterator[tuple[_Chunk, TokenizedPieces]]:
    """Yields chunks and their tokens in order; a small corpus is tokenized here, a larger one by worker processes."""
    first = list(islice(chunks, _SMALL_CORPUS))
    processes = min(processes or _processors(), _MOST_PROCESSES)
    if len(first) < _SMALL_CORPUS or processes == 1:
        here = make_tokenizer(reading, tokenizer, dtype)
        for chunk in chain(first, chunks):
            with _unknown_characters_of(chunk):
                tokenized = here.tokenize([piece.text for piece in chunk])
            yield chunk, tokenized
        return
    with WorkerPool(processes, reading, tokenizer, dtype) as pool:
        under_way: deque[tuple[_Chunk, Future[TokenizedPieces]]] = deque()
        for chunk in chain(first, chunks):
            under_way.append((chunk, pool.submit([piece.text for piece in chunk])))
            if len(under_way) > 2 * processes:
                yield _result(*under_way.popleft())
        while under_way:
            yield _result(*under_way.popleft())


def _result(chunk: _Chunk, future: "Future[TokenizedPieces]") -> tuple[_Chunk, TokenizedPieces]:
    with _unknown_characters_of(chunk):
        return chunk, future.result()


@contextmanager
def _unknown_characters_of(chunk: _Chunk) -> Iterator[None]:
    """Turns an `UnknownCharacter` into an `InputError` that names the place of the character."""
    try:
        yield
    except UnknownCharacter as error:
        piece = chunk[error.piece]
        raise unknown_character(piece.text[error.position], piece.place(error.position)) from error


def _chunks(pieces: Iterator[Piece]) -> Iterator[_Chunk]:
    chunk: _Chunk = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece.text) + 16  # so that a million empty documents make more than one chunk
        if size >= _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _processors() -> int:
    """Returns the number of processors that this process may use, fewer than all in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
