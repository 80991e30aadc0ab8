"""Hashes of files, by which it is known later whether they have changed."""

import hashlib
from pathlib import Path

from kerasllm.errors import InputError


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def model_hash(directory: Path) -> str:
    """Returns one hash of the weights, settings and tokenizer in a model directory.

    Raises:
        InputError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".txt") and path.is_file():
            total.update(f"{path.relative_to(directory).as_posix()}\0{file_hash(path)}\0".encode())
    return total.hexdigest()
