"""The token cache, in which a corpus that was tokenized by a tokenizer is kept for later runs.

An entry is a directory of flat files, named by a hash of the contents of corpus and tokenizer, so that a change in
either makes a new entry, and no entry is ever out of date. It is built under another name and renamed when it is
complete. With a lock, processes that start together build it only once. On a file system without locks, two processes
may both build it, and the first rename wins.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.tokenized import META_FILE, TOKEN_FILE, read_meta
from kerasllm.data.token_cache.build import Layout, build_store
from kerasllm.data.token_cache.progress import CorpusReport
from kerasllm.data.token_cache.tokenization import plain_tokenizer
from kerasllm.data.token_cache.writers import FORMAT_VERSION
from kerasllm.errors import InputError
from kerasllm.files.atomic import sync_directory
from kerasllm.files.locks import FileLock

TOKENIZATION_VERSION = 1
"""A part of each entry's name. Raise it when a change of the readers or of the tokenization changes the tokens of
some corpus, so that older entries are no longer used."""


class Countable(Protocol):
    """An entry, which knows the number of its tokens."""

    @property
    def num_tokens(self) -> int:
        """The number of tokens."""


Entry = TypeVar("Entry", bound=Countable)


class EntryFiles(NamedTuple):
    """The content of an entry's files.

    Args:
        meta: the content of meta.json.
        tokens: the tokens, mapped from the disk.
        offsets: int64 arrays, mapped from the disk, in the order of the requested names.
    """

    meta: dict[str, Any]
    tokens: np.ndarray
    offsets: list[np.ndarray]


def default_cache_directory() -> Path:
    """Returns `$KERASLLM_CACHE`, or `~/.cache/kerasllm`."""
    return Path(os.environ.get("KERASLLM_CACHE") or Path.home() / ".cache" / "kerasllm")


def open_or_build(
    layout: Layout,
    open_entry: Callable[[Path], Entry | None],
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache_directory: str | os.PathLike[str] | None,
    *,
    processes: int | None,
    progress: bool,
) -> Entry:
    """Returns the entry of a corpus, which is built first if it is not in the cache.

    Args:
        layout: the kind of entry.
        open_entry: a function that returns the entry in a directory, or None if there is none or it is damaged.
        corpus: the corpus.
        tokenizer: the tokenizer, whose truncation and padding are ignored.
        cache_directory: the directory of all entries; `default_cache_directory()` by default.
        processes: number of processes that tokenize, by default one per processor.
        progress: whether to print what is tokenized, how far it has come, and where it is kept.

    Raises:
        InputError: the corpus cannot be read or holds no tokens, or the cache cannot be written.
        RuntimeError: a worker process died.
    """
    if processes is not None and processes < 1:
        raise InputError(f"processes {processes} is not a positive number")
    if corpus.tokens is not None:
        return _open_tokens(corpus.tokens, layout, open_entry, tokenizer)
    cache = Path(cache_directory) if cache_directory is not None else default_cache_directory()
    description = plain_tokenizer(tokenizer.to_str()).to_str()
    parts = (FORMAT_VERSION, TOKENIZATION_VERSION, layout.reading, corpus.fingerprint(), description)
    key = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
    place = cache / key
    report = CorpusReport(corpus, progress)
    entry = open_entry(place)
    if entry is not None:
        report.end(entry.num_tokens, place)
        return entry
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _build_lock(cache, key):
            _remove_stale_builds(cache, key)
            entry = open_entry(place)  # another process may have built it while this one waited
            if entry is None:
                report.begin()
                with build_store(layout, corpus, description, cache, key, processes, progress) as built:
                    put_in_place(built, place, open_entry)
                entry = open_entry(place)
    except OSError as error:
        raise InputError(
            f"{cache}: the token cache cannot be written: {error.strerror or error}; "
            "free space or set KERASLLM_CACHE to another directory"
        ) from error
    if entry is None:
        raise InputError(
            f"{place}: the token cache was damaged while it was written; remove it and run again"
        )
    report.end(entry.num_tokens, place)
    return entry


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Returns a SHA-256 (hex) of all that decides which tokens a tokenizer gives."""
    return hashlib.sha256(plain_tokenizer(tokenizer.to_str()).to_str().encode()).hexdigest()


def _open_tokens(
    directory: Path, layout: Layout, open_entry: Callable[[Path], Entry | None], tokenizer: Tokenizer
) -> Entry:
    """Returns the tokens that `kerasllm tokenize_corpus` wrote to a directory.

    Raises:
        InputError: they were made for another kind of model or by another tokenizer, or are incomplete.
    """
    meta = read_meta(directory)
    if meta["reading"] != layout.reading:
        raise InputError(
            f"{directory}: its text was read by --reading {meta['reading']}, and this model needs --reading "
            f"{layout.reading}: tokenize it again"
        )
    if tokenizer_hash(tokenizer) not in meta["tokenizer_sha256"]:
        raise InputError(
            f"{directory}: its tokens are those of another tokenizer, which lies beside them: give --tokenizer "
            f"{directory}, or a model that was trained with it"
        )
    entry = open_entry(directory)
    if entry is None:
        raise InputError(f"{directory}: a file is missing or has another size: copy or make it again")
    return entry


def _build_lock(cache: Path, key: str, *, wait: bool = True) -> FileLock:
    return FileLock(cache / f".{key}.lock", wait=wait)


def _remove_stale_builds(cache: Path, own_key: str) -> None:
    """Removes incomplete builds of killed processes: those of `own_key`, and of other entries that are not locked."""
    for directory in cache.glob(".*.building"):
        key = directory.name.split(".")[1]
        if key == own_key:
            shutil.rmtree(directory, ignore_errors=True)
            continue
        with suppress(BlockingIOError), _build_lock(cache, key, wait=False) as lock:
            if lock.is_held:
                shutil.rmtree(directory, ignore_errors=True)


def open_files(directory: Path, *offset_files: str) -> EntryFiles | None:
    """Returns the content of an entry's files, or None if there is no entry or it is damaged.

    Args:
        directory: the entry's directory.
        offset_files: the names of the int64 files.
    """
    try:
        meta = json.loads((directory / META_FILE).read_text(encoding="utf-8"))
        if meta["format_version"] != FORMAT_VERSION:
            return None
        for name, size in meta["sizes"].items():
            if (directory / name).stat().st_size != size:
                return None
        tokens = np.memmap(directory / TOKEN_FILE, dtype=meta["dtype"], mode="r")
        offsets = [np.memmap(directory / name, dtype=np.int64, mode="r") for name in offset_files]
        meta["vocabulary_size"] = int(meta["vocabulary_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return EntryFiles(meta, tokens, list(offsets))


def put_in_place(built: Path, place: Path, open_entry: Callable[[Path], Any]) -> None:
    """Renames a complete entry, unless another process has already put an undamaged one in place.

    Args:
        built: the directory of the entry.
        place: the directory's new name.
        open_entry: as for `open_or_build`.
    """
    try:
        built.rename(place)
    except OSError:
        if open_entry(place) is not None:
            return
        shutil.rmtree(place)  # the entry there is damaged
        built.rename(place)
    sync_directory(place.parent)
