"""Corpora as streams: text files, JSON lines, Parquet, the Hugging Face hub and Python's own documentation.

Everything is read piece by piece, so that a corpus of any size needs only a few megabytes of memory. A piece is at
most about a megabyte, and usually a whole document; a longer document is cut into several pieces between paragraphs,
or at a sentence if a paragraph is too long. Pieces are not yet split into sentences, as that is the slow part, which
the token store does in parallel.

Each source can be read in two ways: as documents of paragraphs, or verbatim.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kerasllm.data.sources.hub import HubDataset, looks_like_hub_id
from kerasllm.data.sources.python_docs import python_docs, python_docs_fingerprint
from kerasllm.data.sources.sentences import split_paragraphs
from kerasllm.data.sources.tables import as_text
from kerasllm.data.sources.text import Piece, cut, read_text
from kerasllm.data.sources.tokenized import is_tokenized, no_text, read_meta
from kerasllm.data.sources.verbatim import cut_verbatim, read_verbatim
from kerasllm.errors import InputError, counted
from kerasllm.tokenizers.cutting import without_surrogates

PYTHON_DOCS = "python-docs"
TOKENS = "tokens"
_TEXT_SUFFIXES = (".txt", ".md")
_BLOCK = 1 << 20


class Cutting(NamedTuple):
    """The functions that cut text into pieces.

    Args:
        document: a function that yields the pieces of a document in memory, given its text and its place.
        file: a function that yields the pieces of a text file, given blocks of its bytes and its name.
    """

    document: Callable[[str, str], Iterator[Piece]]
    file: Callable[[Iterable[bytes], str], Iterator[Piece]]


PARAGRAPHS = Cutting(lambda text, source: cut(text), lambda blocks, name: read_text(blocks, name))
VERBATIM = Cutting(cut_verbatim, read_verbatim)


class Source(NamedTuple):
    """One resolved source of a corpus.

    Args:
        name: the name in messages.
        kind: the file format and the column, which are a part of the fingerprint.
        pieces: a function that yields the pieces, given `PARAGRAPHS` or `VERBATIM`.
        fingerprint: a function that returns the SHA-256 (hex) of the content.
        size: number of bytes on the disk, None if unknown.
    """

    name: str
    kind: str
    pieces: Callable[[Cutting], Iterator[Piece]]
    fingerprint: Callable[[], str]
    size: int | None


class Corpus:
    """A stream of documents from one or several sources.

    In a text file (`.txt`, `.md` or any other name, also with `.gz`), documents are separated by blank lines, a
    line is a paragraph, and a file without blank lines is one document. A directory stands for all `.txt` and `.md`
    files below it, sorted. In `.jsonl` each line is a document with the text in its field `text_column`; in
    `.parquet` each row is one. `hub:ID[/CONFIG][@REVISION][#SPLIT]`, or an id `owner/name` that is no path, streams a
    dataset from the Hugging Face hub, or from a local directory of data files; the default split is `train`.
    `python-docs` is the prose of Python's documentation, which is part of every installation. A directory that
    `kerasllm tokenize_corpus` wrote holds tokens in place of text, and is then the only source.

    Args:
        sources: paths, dataset ids and the word `python-docs`, in any combination; they are read in this order.
        text_column: the field or column of the text in JSON lines, Parquet and datasets.
        shard: a number from 0 and a count: of so many shares of the files, or of the rows of a dataset of the hub, only
            that one; None for all.

    Raises:
        InputError: a source is missing or empty. Errors within the content are raised as it is read.

    Attributes:
        tokens: the directory of tokens that the corpus consists of, or None if it is text.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        text_column: str = "text",
        shard: tuple[int, int] | None = None,
    ) -> None:
        if isinstance(sources, str | os.PathLike):
            sources = [sources]
        if not sources:
            raise InputError(
                "the corpus has no source; name a text file, a directory, a dataset or python-docs"
            )
        self.text_column = text_column
        self._sources = [
            resolved for source in sources for resolved in _resolve(os.fspath(source), text_column, shard)
        ]
        if shard is not None:
            self._sources = _shard(self._sources, *shard)
        tokens = [Path(source.name) for source in self._sources if source.kind == TOKENS]
        if tokens and len(self._sources) > 1:
            raise InputError(
                f"{tokens[0]}: holds tokens, and is not read together with others: tokenize those, too, and join "
                "them with `kerasllm tokenize_corpus --merge`"
            )
        self.tokens: Path | None = tokens[0] if tokens else None

    @property
    def names(self) -> list[str]:
        """The names of the sources: those of files without their directories, and ids of data sets whole."""
        return [Path(each.name).name if os.path.exists(each.name) else each.name for each in self._sources]

    @property
    def size(self) -> int | None:
        """The number of bytes of all sources, or None if one of them is unknown."""
        sizes = [source.size for source in self._sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def pieces(self) -> Iterator[Piece]:
        """Yields the text in pieces: whole documents, or parts of long ones, of about a megabyte at most.

        Raises:
            InputError: a source cannot be read, or none of them holds any text.
        """
        return self._pieces(PARAGRAPHS)

    def raw_pieces(self) -> Iterator[Piece]:
        """Yields the text verbatim in pieces: documents, or parts of long ones, of about 64 thousand characters.

        A text file is one document. A document of white space alone is left out.

        Raises:
            InputError: a source cannot be read, or none of them holds any text.
        """
        begins = True
        for piece in self._pieces(VERBATIM):
            if not (begins and piece.ends_document and piece.text.isspace()):
                yield piece
            begins = piece.ends_document

    def documents(self) -> Iterator[list[str]]:
        """Yields the sentences of each document; empty documents are left out.

        Raises:
            InputError: a source cannot be read, or none of them holds any text.
        """
        sentences: list[str] = []
        for piece in self.pieces():
            sentences += split_paragraphs(piece.text)
            if piece.ends_document and sentences:
                yield sentences
                sentences = []
        if sentences:
            yield sentences

    def _pieces(self, cutting: Cutting) -> Iterator[Piece]:
        found = False
        for source in self._sources:
            for piece in source.pieces(cutting):
                found = found or (not piece.text.isspace() and bool(piece.text))
                yield piece
        if not found:
            names = ", ".join(source.name for source in self._sources[:5])
            raise InputError(f"{names}: nothing but blank lines; a corpus needs text")

    def fingerprint(self) -> str:
        """Returns a SHA-256 (hex) of the contents and formats of the sources, which does not depend on their paths."""
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update(f"{source.kind}\0{source.fingerprint()}\0".encode())
        return digest.hexdigest()


def _shard(sources: list[Source], number: int, count: int) -> list[Source]:
    """Returns a share of the files, and the datasets of the hub, of which `_resolve` took a share of the rows."""
    files = [source for source in sources if not source.kind.startswith("hub:")]
    if files and len(files) < count:
        raise InputError(
            f"--shard {number}/{count}: the corpus has {counted(len(files), 'file')}, which cannot be divided among "
            f"{count}"
        )
    own = {id(source) for source in files[number::count]}
    return [source for source in sources if source.kind.startswith("hub:") or id(source) in own]


def _resolve(source: str, text_column: str, shard: tuple[int, int] | None = None) -> list[Source]:
    """Returns the sources that a path, an id or the word `python-docs` stands for."""
    if not source.strip():
        raise InputError(
            "the corpus has an empty name among its sources; name a text file, a directory or a dataset"
        )
    if source == PYTHON_DOCS:
        return [Source(PYTHON_DOCS, PYTHON_DOCS, _python_docs_pieces, python_docs_fingerprint, None)]
    path = Path(source).expanduser()
    if source.startswith("hub:") or (not path.exists() and looks_like_hub_id(source)):
        dataset = replace(HubDataset.parse(source.removeprefix("hub:"), text_column), shard=shard)
        return [
            Source(source, f"hub:{text_column}", partial(_hub_pieces, dataset), dataset.fingerprint, None)
        ]
    if path.is_dir() and is_tokenized(path):
        meta = read_meta(path)
        return [Source(str(path), TOKENS, partial(_no_pieces, path), lambda: meta["corpus_sha256"], None)]
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.name.lower().removesuffix(".gz").endswith(_TEXT_SUFFIXES)
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            raise InputError(
                f"{path}: holds no .txt or .md file; name its .jsonl or .parquet files, "
                f"or write hub:{path} to read it with the datasets library"
            )
        resolved = [_file(file, text_column) for file in files if file.stat().st_size > 0]
        if not resolved:
            raise InputError(f"{path}: all its {len(files)} text files are empty; a corpus needs text")
        return resolved
    if not path.exists():
        raise InputError(
            f"{source}: no such file or directory (a dataset of the hub is written hub:{source})"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; a corpus needs text")
    return [_file(path, text_column)]


def _file(path: Path, text_column: str) -> Source:
    pieces: Callable[[Cutting], Iterator[Piece]]
    name = path.name.lower()
    compressed = name.endswith(".gz")
    name = name.removesuffix(".gz")
    size = None if compressed else path.stat().st_size
    if name.endswith((".jsonl", ".ndjson")):
        kind, pieces = f"jsonl:{text_column}", partial(_json_pieces, path, text_column)
    elif name.endswith(".parquet"):
        kind, pieces, size = f"parquet:{text_column}", partial(_parquet_pieces, path, text_column), None
    else:
        kind, pieces = "text", lambda cutting: cutting.file(_blocks(path), str(path))
    return Source(str(path), kind, pieces, lambda: _hash_file(path), size)


def _blocks(path: Path) -> Iterator[bytes]:
    """Yields a file's bytes, a megabyte at a time, decompressed if its name ends in .gz."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: broken gzip file: {error}; fetch or compress it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _no_pieces(directory: Path, cutting: Cutting) -> Iterator[Piece]:
    raise no_text(directory)
    yield  # makes this a generator, as a source's text is only read where it is needed


def _hub_pieces(dataset: HubDataset, cutting: Cutting) -> Iterator[Piece]:
    for text, place in dataset.texts():
        yield from cutting.document(text, place)


def _python_docs_pieces(cutting: Cutting) -> Iterator[Piece]:
    for document in python_docs():
        text = "\n".join(document.sentences)
        yield from cutting.document(text, f"{PYTHON_DOCS}: {document.name}")


def _json_pieces(path: Path, text_column: str, cutting: Cutting) -> Iterator[Piece]:
    """Yields the pieces of a JSON lines file, in which each line is a document and is read whole."""
    for number, line in enumerate(_lines(path), 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{place}: byte {error.start} of the line is not UTF-8; convert the file with iconv -t UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not JSON: {error}; each line must be one JSON object") from error
        if not isinstance(record, dict):
            raise InputError(
                f"{place}: {type(record).__name__} where a JSON object with a field {text_column!r} belongs"
            )
        if text_column not in record:
            raise InputError(
                f"{place}: no field {text_column!r}; the fields are {sorted(record)}; set text_column"
            )
        text = record[text_column]
        if text is None:
            continue
        if not isinstance(text, str):
            raise InputError(f"{place}: field {text_column!r} holds {type(text).__name__}, not text")
        text = without_surrogates(text)
        yield from cutting.document(text, place)


def _lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a JSON lines file; a carriage return ends one too, as a text holds none unescaped."""
    rest: list[bytes] = []
    previous = b""
    for block in _blocks(path):
        if b"\r" in block or previous == b"\r":
            previous, block = block[-1:], block.removeprefix(b"\n") if previous == b"\r" else block
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            previous = b""
        first, *others = block.split(b"\n")
        rest.append(first)
        for line in others:
            yield b"".join(rest)
            rest = [line]
    yield b"".join(rest)


def _parquet_pieces(path: Path, text_column: str, cutting: Cutting) -> Iterator[Piece]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_column not in names:
                raise InputError(
                    f"{path}: no column {text_column!r}; the columns are {names}; set text_column"
                )
            if names.count(text_column) > 1:
                raise InputError(f"{path}: the column {text_column!r} is there twice: {names}; rename one")
            kind: Any = file.schema_arrow.field(text_column).type
            if pyarrow.types.is_dictionary(kind):
                kind = kind.value_type
            is_text = (
                *("is_string", "is_large_string", "is_string_view"),
                *("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view"),
            )
            if not any(getattr(pyarrow.types, name)(kind) for name in is_text):
                raise InputError(f"{path}: column {text_column!r} holds {kind}, not text")
            before = 0  # number of rows in earlier batches
            for batch in file.iter_batches(batch_size=64, columns=[text_column], use_threads=False):
                for row, value in enumerate(batch.column(text_column).to_pylist(), before + 1):
                    if text := as_text(value, f"{path} row {row}"):
                        yield from cutting.document(text, f"{path}: row {row}")
                before += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from error
