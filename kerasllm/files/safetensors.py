"""Writing and reading of safetensors files, one array at a time.

The `safetensors` package writes a dictionary of arrays at once, which for a checkpoint needs a second copy of weights
and optimizer state in memory. It has no bfloat16 for NumPy, and reports a full disk as an error of its own type. The
format is simple, a JSON header followed by raw bytes (https://github.com/huggingface/safetensors), so this module
writes it itself and computes the hash at the same time. Any safetensors reader reads the result.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
DTYPES = {code: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name, code in _CODES.items()}
"""NumPy's dtypes by the format's codes."""


@dataclass(frozen=True)
class Entry:
    """An array to be written: its name, shape and dtype's name, and a function that fetches its values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fetch: Callable[[], np.ndarray]


def snapshot(entries: Iterable[Entry], buffers: dict[str, np.ndarray]) -> list[Entry]:
    """Copies arrays that are about to change, so that another thread may write them.

    Args:
        entries: the arrays, which are fetched now, one after another.
        buffers: the memory of the copies by name; pass an empty dict the first time, and the same dict to reuse it.

    Returns:
        The entries of the copies.
    """
    copies = []
    for entry in entries:
        values = buffers.get(entry.name)
        if values is None:
            values = buffers[entry.name] = np.empty(entry.shape, DTYPES[_CODES[entry.dtype]])
        np.copyto(values, entry.fetch(), casting="unsafe")
        copies.append(array_entry(entry.name, values))
    return copies


def array_entry(name: str, array: np.ndarray) -> Entry:
    """Returns the entry of an array that does not change until it is written."""
    return Entry(name, array.shape, array.dtype.name, lambda: array)


def write_safetensors(path: Path, entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> str:
    """Writes a file and syncs it to the disk.

    Args:
        path: a file that does not exist yet.
        entries: the arrays, in the order in which they are fetched and written.
        metadata: the metadata in the header, texts by key.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        OSError: the file cannot be written; it may be left incomplete.
    """
    entries = list(entries)
    header: dict[str, dict] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for entry in entries:
        code = _CODES[entry.dtype]
        size = int(np.prod(entry.shape, dtype=np.int64)) * DTYPES[code].itemsize
        header[entry.name] = {
            "dtype": code,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns the values to 8 bytes
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def write(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        write(len(encoded).to_bytes(8, "little"))
        write(encoded)
        for entry in entries:
            values = np.ascontiguousarray(entry.fetch(), dtype=DTYPES[_CODES[entry.dtype]])
            if values.shape != entry.shape and values.size:
                values = values.reshape(entry.shape)  # ascontiguousarray makes scalars one-dimensional
            write(values.reshape(-1).view(np.uint8).data)  # the buffer itself, no copy
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StoredArray(NamedTuple):
    """The place and type of an array in a file.

    Args:
        dtype: the format's code of the dtype, "F32" for example.
        shape: the array's shape.
        begin: the offset of its first byte from the beginning of the file.
        end: the offset of the byte after its last one.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, StoredArray]:
    """Returns the place and type of each array in a file, in the order of the header, without checking them.

    Raises:
        ValueError: this is not a safetensors file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > path.stat().st_size:
            raise ValueError(f"{path} is not a safetensors file")
        header = json.loads(file.read(start - 8))
    header.pop("__metadata__", None)
    return {
        name: StoredArray(
            entry["dtype"], tuple(entry["shape"]), *(start + offset for offset in entry["data_offsets"])
        )
        for name, entry in header.items()
    }


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a file by name, mapped into memory read-only, so that bytes are read when they are used.

    Args:
        path: a safetensors file whose hash has been checked, or that is otherwise known to be whole.

    Raises:
        ValueError: this is not a safetensors file.
    """
    header = read_header(path)
    content = np.memmap(path, dtype=np.uint8, mode="r")
    return {
        name: np.asarray(content[stored.begin : stored.end].view(DTYPES[stored.dtype]).reshape(stored.shape))
        for name, stored in header.items()
    }
