"""Directories of a corpus that is tokenized already, as `kerasllm tokenize_corpus` writes them.

This module knows only what a directory looks like from outside; `kerasllm.data.token_cache` reads the tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kerasllm.errors import InputError

META_FILE = "meta.json"
TOKEN_FILE = "tokens.bin"


def is_tokenized(directory: Path) -> bool:
    """Returns whether a directory holds tokens in place of text."""
    return (directory / META_FILE).is_file() and (directory / TOKEN_FILE).is_file()


def read_meta(directory: Path) -> dict[str, Any]:
    """Returns what is recorded about the tokens in a directory.

    Raises:
        InputError: it cannot be read, or was not written by `kerasllm tokenize_corpus`.
    """
    path = directory / META_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}; tokenize the text again") from error
    texts = ("reading", "corpus_sha256", "dtype")
    lists = ("tokenizer_sha256", "sizes", "sha256")
    if not isinstance(meta, dict) or not (
        all(isinstance(meta.get(name), str) for name in texts)
        and all(isinstance(meta.get(name), list | dict) for name in lists)
    ):
        raise InputError(f"{path}: not written by `kerasllm tokenize_corpus`; tokenize the text with it")
    return meta


def no_text(directory: Path) -> InputError:
    """Returns the error for tokens where text is to be read."""
    return InputError(
        f"{directory}: holds tokens and no text to train a tokenizer on: give the tokenizer that made them, "
        f"--tokenizer {directory}"
    )
