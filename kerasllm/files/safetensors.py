"""Arrays in a safetensors file, one at a time.

The `safetensors` package writes a dictionary of arrays at once, which for a checkpoint is a second copy of
weights and optimizer in memory, has no bfloat16 for NumPy, and reports a full disk as an error of its own.
The format is a JSON header and the raw bytes behind it (https://github.com/huggingface/safetensors), so it is
written here, and hashed on the way. Any safetensors reader reads the result.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

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
_DTYPES = {
    code: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name, code in _CODES.items()
}


@dataclass(frozen=True)
class Entry:
    """An array to be written: name, shape, dtype's name, and a function that fetches it when it is due."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fetch: Callable[[], np.ndarray]


def snapshot(entries: Iterable[Entry], buffers: dict[str, np.ndarray]) -> list[Entry]:
    """Copies arrays that are about to change, so that another thread may write them.

    Args:
        entries: fetched now, each in turn.
        buffers: by name, the memory that holds the copies; empty the first time, filled anew after that.

    Returns:
        The entries of the copies.
    """
    copies = []
    for entry in entries:
        values = buffers.get(entry.name)
        if values is None:
            values = buffers[entry.name] = np.empty(entry.shape, _DTYPES[_CODES[entry.dtype]])
        np.copyto(values, entry.fetch(), casting="unsafe")
        copies.append(array_entry(entry.name, values))
    return copies


def array_entry(name: str, array: np.ndarray) -> Entry:
    """The entry of an array that is there and stays as it is."""
    return Entry(name, array.shape, array.dtype.name, lambda: array)


def write_state_file(path: Path, entries: Iterable[Entry]) -> str:
    """Writes and syncs a file.

    Args:
        path: must not exist.
        entries: in the order in which they are fetched and written.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        OSError: the disk is full, or any other failure to write; what is there is then incomplete.
    """
    entries = list(entries)
    header: dict[str, dict] = {}
    offset = 0
    for entry in entries:
        code = _CODES[entry.dtype]
        size = int(np.prod(entry.shape, dtype=np.int64)) * _DTYPES[code].itemsize
        header[entry.name] = {
            "dtype": code,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the values aligned
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def write(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        write(len(encoded).to_bytes(8, "little"))
        write(encoded)
        for entry in entries:
            values = np.ascontiguousarray(entry.fetch(), dtype=_DTYPES[_CODES[entry.dtype]])
            if values.shape != entry.shape and values.size:
                values = values.reshape(entry.shape)  # ascontiguousarray makes scalars one-dimensional
            write(values.reshape(-1).view(np.uint8).data)  # the buffer itself, no copy
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_file(path: Path) -> dict[str, np.ndarray]:
    """All arrays by name, in the file's order, mapped read-only: bytes are read when they are used.

    Args:
        path: a safetensors file whose hash has been checked, or that is otherwise known to be whole.

    Raises:
        ValueError: not a safetensors file.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    if start > content.size:
        raise ValueError(f"{path} is not a safetensors file")
    arrays = {}
    for name, entry in json.loads(content[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = content[start + begin : start + end].view(_DTYPES[entry["dtype"]])
        arrays[name] = np.asarray(values.reshape(entry["shape"]))
    return arrays
