"""Tokenized corpora in directories of their own, which are made in parts on many machines and joined into one.

A part is what the token cache keeps, with the tokenizer and the SHA-256 of each file beside it. Joined parts hold the
same bytes as if their texts had been tokenized together, one after another.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.tokenized import META_FILE, TOKEN_FILE, is_tokenized, read_meta
from kerasllm.data.token_cache.build import SENTENCES, STREAM, build_store
from kerasllm.data.token_cache.cache import tokenizer_hash
from kerasllm.data.token_cache.progress import ByteProgress
from kerasllm.data.token_cache.tokenization import Reading, plain_tokenizer
from kerasllm.data.token_cache.writers import DOCUMENT_OFFSETS, PARAGRAPH_OFFSETS, SENTENCE_OFFSETS
from kerasllm.errors import DISK_FULL, InputError
from kerasllm.files.atomic import sync_directory
from kerasllm.files.hashes import file_hash
from kerasllm.files.json import write_json
from kerasllm.files.locks import FileLock
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer

LAYOUTS = {layout.reading: layout for layout in (STREAM, SENTENCES)}
"""How text is read: verbatim for causal language models, in sentences for BERT."""

_COUNTED_IN = {
    "verbatim": {DOCUMENT_OFFSETS: TOKEN_FILE},
    "sentences": {
        SENTENCE_OFFSETS: TOKEN_FILE,
        DOCUMENT_OFFSETS: SENTENCE_OFFSETS,
        PARAGRAPH_OFFSETS: SENTENCE_OFFSETS,
    },
}
"""The file whose items each file of offsets counts."""

_SAME = ("reading", "dtype", "vocabulary_size", "end_id", "format_version")
_BLOCK = 1 << 23  # bytes


def write_part(
    corpus: Corpus,
    tokenizer: Tokenizer,
    directory: str | os.PathLike[str],
    *,
    reading: Reading = "verbatim",
    processes: int | None = None,
    progress: bool = True,
) -> int:
    """Tokenizes a corpus into a directory, and returns the number of tokens.

    Args:
        corpus: the text.
        tokenizer: the tokenizer, which is saved with the tokens.
        directory: the new directory, which is there when it is complete.
        reading: "verbatim" for causal language models, "sentences" for BERT.
        processes: number of processes that tokenize; one per processor if None.
        progress: whether to show how far it has come.

    Raises:
        InputError: the directory is there already or cannot be written, or the text cannot be read or tokenized.
    """
    if corpus.tokens is not None:
        raise InputError(f"{corpus.tokens}: holds tokens already: join them with --merge")
    description = plain_tokenizer(tokenizer.to_str()).to_str()
    with (
        _new_place(directory) as place,
        build_store(
            LAYOUTS[reading], corpus, description, place.parent, place.name, processes, progress
        ) as built,
    ):
        save_tokenizer(tokenizer, built)
        hashes = sorted({tokenizer_hash(tokenizer), tokenizer_hash(load_tokenizer(built))})
        known = _written_meta(built)
        record = {
            "reading": reading,
            "corpus_sha256": corpus.fingerprint(),
            "tokenizer_sha256": hashes,
            "sha256": {name: file_hash(built / name) for name in known["sizes"]},
        }
        write_json(built / META_FILE, known | record)
        built.rename(place)
        sync_directory(place.parent)
    return _num_tokens(known)


def merge_parts(
    parts: Sequence[str | os.PathLike[str]], directory: str | os.PathLike[str], *, progress: bool = True
) -> int:
    """Joins tokenized corpora into one, in their order, and returns the number of its tokens.

    The files are copied a few megabytes at a time, and their hashes are compared meanwhile.

    Args:
        parts: directories that `write_part` or `merge_parts` wrote.
        directory: the new directory, which is there when it is complete.
        progress: whether to show how far it has come.

    Raises:
        InputError: a part is missing, damaged or there twice, two parts do not fit together, or the directory is there
            already or cannot be written.
    """
    sources = [Path(part) for part in parts]
    metas = [_meta_of_part(source) for source in sources]
    _check_that_they_fit(sources, metas)
    size = sum(sum(meta["sizes"].values()) for meta in metas)
    with _new_place(directory) as place:
        if shutil.disk_usage(place.parent).free < size:
            raise InputError(
                f"{place}: the disk has less room than the {size:,} bytes of the parts; free some space"
            )
        built = place.parent / f".{place.name}.{os.getpid()}-{os.urandom(4).hex()}.building"
        built.mkdir()
        try:
            sizes, hashes = {}, {}
            with ByteProgress(size, progress, "joining") as bar:
                for name in metas[0]["sizes"]:
                    hashes[name] = _join(name, sources, metas, built / name, bar)
                    sizes[name] = (built / name).stat().st_size
            for file in sources[0].iterdir():
                if file.is_file() and file.name not in (*sizes, META_FILE):  # the tokenizer
                    shutil.copy(file, built / file.name)
            text = "\0".join(meta["corpus_sha256"] for meta in metas)
            record = {
                "sizes": sizes,
                "sha256": hashes,
                "corpus_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "parts": [part for meta in metas for part in meta.get("parts", [meta["corpus_sha256"]])],
            }
            write_json(built / META_FILE, metas[0] | record)
            built.rename(place)
            sync_directory(place.parent)
        finally:
            shutil.rmtree(built, ignore_errors=True)
    return _num_tokens(metas[0] | record)


@contextmanager
def _new_place(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the path of a new directory, which this process alone makes; what a killed one has left there goes first.

    Raises:
        InputError: it is there already, another process makes it, or it cannot be written.
    """
    place = Path(os.path.abspath(directory))
    if place.exists():
        raise InputError(f"{directory} is there already: choose another --output")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.parent / f".{place.name}.lock", wait=False):
            for left in place.parent.glob(f".{glob.escape(place.name)}.*.building"):
                shutil.rmtree(left, ignore_errors=True)
            yield place
    except BlockingIOError as error:
        raise InputError(f"{directory}: another process is writing it") from error
    except OSError as error:
        full = "; free some space" if error.errno in DISK_FULL else ""
        raise InputError(f"{place}: cannot be written: {error.strerror or error}{full}") from error


def _meta_of_part(directory: Path) -> dict[str, Any]:
    if not is_tokenized(directory):
        raise InputError(f"{directory}: holds no tokens; make it with `kerasllm tokenize_corpus --corpus`")
    meta = read_meta(directory)
    for name, size in meta["sizes"].items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"{path.stat().st_size:,}" if path.is_file() else "no"
            raise InputError(f"{path}: has {found} bytes in place of {size:,}: copy or make the part again")
    return meta


def _check_that_they_fit(sources: Sequence[Path], metas: Sequence[dict[str, Any]]) -> None:
    first = metas[0]
    for source, meta in zip(sources[1:], metas[1:], strict=True):
        if not set(meta["tokenizer_sha256"]) & set(first["tokenizer_sha256"]):
            raise InputError(f"{source}: its tokens are those of another tokenizer than {sources[0]}'s")
        for name in _SAME:
            if meta.get(name) != first.get(name):
                raise InputError(
                    f"{source}: its {name} is {meta.get(name)}, and that of {sources[0]} {first.get(name)}"
                )
    seen: dict[str, Path] = {}
    for source, meta in zip(sources, metas, strict=True):
        for text in meta.get("parts", [meta["corpus_sha256"]]):
            if text in seen:
                raise InputError(f"{source}: holds the same text as {seen[text]}: leave one of them out")
            seen[text] = source


def _join(
    name: str, sources: Sequence[Path], metas: Sequence[dict[str, Any]], target: Path, bar: ByteProgress
) -> str:
    """Writes one file of all parts, and returns its SHA-256."""
    counted_in = _COUNTED_IN[metas[0]["reading"]].get(name)
    total, base = hashlib.sha256(), 0
    with target.open("wb") as writing:
        for number, (source, meta) in enumerate(zip(sources, metas, strict=True)):
            own = hashlib.sha256()
            with (source / name).open("rb") as reading:
                first = True
                while block := reading.read(_BLOCK):
                    own.update(block)
                    bar.advance(len(block))
                    if counted_in is not None:
                        offsets = np.frombuffer(block, np.int64)
                        # Each file begins with a 0, which only the first needs.
                        block = (offsets[1 if first and number else 0 :] + base).tobytes()
                        first = False
                    total.update(block)
                    writing.write(block)
            if own.hexdigest() != meta["sha256"].get(name):
                raise InputError(f"{source / name}: its content has changed: copy or make the part again")
            if counted_in is not None:
                base += _num_items(meta, counted_in)
        writing.flush()
        os.fsync(writing.fileno())
    return total.hexdigest()


def _written_meta(directory: Path) -> dict[str, Any]:
    return json.loads((directory / META_FILE).read_text(encoding="utf-8"))


def _num_items(meta: dict[str, Any], name: str) -> int:
    """Returns the number of tokens in a file, or that of the sentences that its offsets divide."""
    if name == TOKEN_FILE:
        return _num_tokens(meta)
    return meta["sizes"][name] // 8 - 1


def _num_tokens(meta: dict[str, Any]) -> int:
    return meta["sizes"][TOKEN_FILE] // np.dtype(meta["dtype"]).itemsize
