"""An index on the disk: passages with their vectors or their words, and what it was made from.

The directory holds `index.json` (how and from what it was built), `passages.jsonl`, and `vectors.npy` or `bm25/`; with
windows of sentences, `windows.npy` says of which passage each vector is. It is written under another name and renamed,
so that it is whole or not there.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.data.sources.documents import Cutting, Passage, fingerprint, read_documents
from kerasllm.errors import InputError, require, short
from kerasllm.files.json import read_json, write_json
from kerasllm.retrieval.bm25 import BM25
from kerasllm.retrieval.search import nearest
from kerasllm.retrieval.windows import Search, by_best_window, sentence_windows

_DESCRIPTION, _PASSAGES, _WORDS = "index.json", "passages.jsonl", "bm25"
_VECTORS, _OWNERS, _FAISS = "vectors.npy", "windows.npy", "vectors.faiss"
_VERSION = 1

Encode = Callable[[Sequence[str]], np.ndarray]
"""A function from texts to vectors, float32 (texts, dim)."""


@dataclass(frozen=True)
class Built:
    """How an index was built.

    Args:
        documents: the absolute path of the file or directory of documents.
        hashes: the SHA-256 of each of its files.
        cutting: how text files were cut into passages.
        model: the absolute path of the encoder, or "bm25".
        model_hash: the SHA-256 of the encoder's files; empty for BM25.
        stemmer: BM25's stemmer, or None.
        faiss: the description of faiss' index, such as "HNSW32"; None for exact search.
        window_sentences: sentences of the windows by which a passage is found; None for the whole passage.
    """

    documents: str
    hashes: Mapping[str, str]
    cutting: Cutting
    model: str
    model_hash: str = ""
    stemmer: str | None = None
    faiss: str | None = None
    window_sentences: int | None = None


class Index:
    """An index that is open for searching.

    Args:
        directory: its directory, for messages.
        built: how it was built.
        passages: its passages.
        search: function of queries' texts and a number of results, as `BM25.search`, or of queries' vectors instead.
    """

    def __init__(
        self, directory: Path, built: Built, passages: Sequence[Passage], search: Callable[..., Any]
    ) -> None:
        self.directory, self.built, self.passages, self._search = directory, built, passages, search

    @property
    def is_bm25(self) -> bool:
        """Whether the index is of words, not of vectors."""
        return self.built.model == _WORDS

    def search(self, queries: Sequence[str] | np.ndarray, count: int) -> list[list[tuple[int, float]]]:
        """Returns the best passages for each query, as indices and scores, best first.

        Args:
            queries: texts, or for an index of vectors their vectors.
            count: number of passages to find for each.
        """
        places, scores = self._search(queries, count)
        return [
            list(zip(row.tolist(), own.tolist(), strict=True))
            for row, own in zip(places, scores, strict=True)
        ]

    @classmethod
    def open(cls, directory: str | Path) -> Index:
        """Opens an index, whose documents must still be those that it was built from.

        Raises:
            InputError: there is no index, it is damaged, or its documents have changed.
        """
        directory = Path(directory)
        path = directory / _DESCRIPTION
        if not path.is_file():
            raise InputError(f"{directory}: holds no {_DESCRIPTION}: it is no index; build one first")
        content = read_json(path)
        try:
            if content.pop("version") != _VERSION:
                raise ValueError("of another version")
            built = Built(**content | {"cutting": Cutting(**content["cutting"])})
            lines = (directory / _PASSAGES).read_text(encoding="utf-8").split("\n")
            passages = [Passage(**json.loads(line)) for line in lines if line]
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise InputError(f"{directory}: the index is damaged ({error}); build it anew") from error
        _check_documents(directory, built)
        if built.model == _WORDS:
            return cls(directory, built, passages, BM25.load(directory / _WORDS, built.stemmer).search)
        vectors = _mapped(directory / _VECTORS, np.float32, 2)
        windows = built.window_sentences is not None
        owners = _mapped(directory / _OWNERS, np.int64, 1) if windows else np.arange(len(passages))
        if len(vectors) != len(owners) or not np.array_equal(np.unique(owners), np.arange(len(passages))):
            raise InputError(
                f"{directory}: {len(vectors)} vectors of {len(passages)} passages; build the index anew"
            )
        search: Search = (
            _faiss_search(directory / _FAISS)
            if built.faiss
            else lambda queries, count: nearest(queries, vectors, count)
        )
        return cls(directory, built, passages, by_best_window(search, owners) if windows else search)


def build_index(
    directory: str | Path,
    documents: str | Path,
    *,
    model: str,
    encode: Encode | None = None,
    model_hash: str = "",
    cutting: Cutting | None = None,
    stemmer: str | None = "english",
    faiss: str | None = None,
    window_sentences: int | None = None,
) -> Index:
    """Builds an index and writes it, in place of an index that is there already.

    Args:
        directory: the directory of the index.
        documents: the file or directory of documents.
        model: the absolute path of the encoder, or "bm25".
        encode: the encoder, for an index of vectors.
        model_hash: the hash of the encoder's files.
        cutting: how text files are cut into passages.
        stemmer: BM25's stemmer, or None.
        faiss: the description of faiss' index, or None for exact search.
        window_sentences: sentences of the windows that are encoded, by the best of which a passage is found; None
            encodes passages whole.

    Raises:
        InputError: the documents cannot be read, or the directory cannot be written.
    """
    target, cutting = Path(directory), cutting or Cutting()
    check_target(target)
    hashes = fingerprint(documents)
    passages = read_documents(documents, cutting)
    words = model == _WORDS
    built = Built(
        os.path.abspath(documents),
        hashes,
        cutting,
        model,
        model_hash,
        stemmer if words else None,
        None if words else faiss,
        None if words else window_sentences,
    )
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    texts = [passage.text for passage in passages]
    try:
        temporary.mkdir(parents=True)
        if words:
            BM25.build(texts, stemmer=stemmer).save(temporary / _WORDS)
        else:
            assert encode is not None
            if window_sentences is not None:
                texts, owners = sentence_windows(texts, window_sentences)
                np.save(temporary / _OWNERS, owners, allow_pickle=False)
            vectors = np.ascontiguousarray(encode(texts), np.float32)
            np.save(temporary / _VECTORS, vectors, allow_pickle=False)
            if faiss:
                _write_faiss(temporary / _FAISS, vectors, faiss)
        with (temporary / _PASSAGES).open("w", encoding="utf-8") as file:
            for passage in passages:
                file.write(json.dumps(asdict(passage), ensure_ascii=False) + "\n")
        write_json(temporary / _DESCRIPTION, {"version": _VERSION, **asdict(built)})
        _put(temporary, target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); give another path"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Index.open(target)


def check_target(target: Path) -> None:
    """Checks that an index may be written to a directory: that is missing, empty, or holds an index.

    Raises:
        InputError: it holds something else.
    """
    if target.exists() and not (
        target.is_dir() and ((target / _DESCRIPTION).is_file() or not any(target.iterdir()))
    ):
        raise InputError(f"{target}: is there already, and is no index: give another path")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no directory {target.parent}; make it, or give another path")


def _put(temporary: Path, target: Path) -> None:
    """Renames a finished index to its name, and removes the one that it replaces."""
    old = temporary.with_suffix(".old")
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _check_documents(directory: Path, built: Built) -> None:
    """Refuses an index whose documents have changed.

    Raises:
        InputError: they have; the message names the first such file.
    """
    path = Path(built.documents)
    now = fingerprint(path) if path.exists() else {}
    for name in sorted({*now, *built.hashes}):
        if now.get(name) != built.hashes.get(name):
            fault = (
                "is missing" if name not in now else "is new" if name not in built.hashes else "has changed"
            )
            raise InputError(
                f"{directory}: {short(name)} of {path} {fault} since the index was built; build it anew"
            )


def _mapped(path: Path, dtype: type, axes: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); build the index anew") from error
    if not isinstance(array, np.ndarray) or array.ndim != axes or array.dtype != dtype:
        raise InputError(f"{path}: holds no array of {dtype.__name__}; build the index anew")
    return array


def _faiss() -> Any:
    require("this index", "faiss", "faiss")
    import faiss

    return faiss


def _write_faiss(path: Path, vectors: np.ndarray, description: str) -> None:
    faiss = _faiss()
    try:
        index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"--faiss {description}: faiss cannot make such an index ({reason})") from error
    faiss.write_index(index, str(path))


def _faiss_search(path: Path) -> Search:
    faiss = _faiss()
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read; build the index anew") from error

    def search(queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        scores, places = index.search(np.ascontiguousarray(queries, np.float32), min(count, index.ntotal))
        return places, scores

    return search
