"""Reading and writing of named tensors in safetensors files; reading needs no second copy of the model in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.errors import InputError
from kerasllm.files import json as json_files
from kerasllm.files.atomic import replace_file, replacing
from kerasllm.files.json import read_json
from kerasllm.files.safetensors import DTYPES, StoredArray, array_entry, read_header, write_safetensors

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_FLOATS = ("F64", "F32", "F16", "BF16")


class WeightFiles:
    """The tensors of a checkpoint directory: one model.safetensors, or shards with an index.

    The constructor reads only the headers. Each tensor is read from the file separately: if the file were mapped into
    memory, as the `safetensors` package does, all of it would count as memory of the process.

    Args:
        directory: the directory that holds model.safetensors or model.safetensors.index.json.
        file: the name of the file, if it has another one, which is then not divided into shards.

    Raises:
        InputError: there are no such files, or they are damaged.
    """

    def __init__(self, directory: Path, file: str = WEIGHTS_FILE) -> None:
        self.directory = directory
        self._tensors: dict[str, tuple[Path, StoredArray]] = {}
        if file != WEIGHTS_FILE or (directory / file).is_file():
            self._tensors = _tensors_of(directory / file)
            return
        index = directory / INDEX_FILE
        places = _read_index(directory, index)
        files = {name: _tensors_of(directory / name) for name in sorted(set(places.values()))}
        for name, file in places.items():
            if name not in files[file]:
                raise InputError(
                    f"{index}: {name[:80]!r} is not in {file}, as it should be; copy the model anew"
                )
            self._tensors[name] = files[file][name]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by name."""
        return {name: stored.shape for name, (_, stored) in self._tensors.items()}

    def check_number(self, name: str) -> None:
        """Checks that a tensor holds floating-point numbers, which quantized ones do not.

        Raises:
            InputError: it does not; the message names the file, the tensor and its type.
        """
        path, stored = self._tensors[name]
        if stored.dtype not in _FLOATS:
            raise InputError(
                f"{path}: {name} holds {stored.dtype}, weights are {', '.join(_FLOATS)}: "
                "take the checkpoint that is not quantized"
            )

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as float32."""
        return np.concatenate(list(self.parts(name, None)))

    def parts(self, name: str, largest: int | None = 2_000_000) -> Iterator[np.ndarray]:
        """Yields a tensor as float32, some rows at a time.

        Args:
            name: the name of a tensor with at least one axis.
            largest: the largest size of a part in bytes; None for all rows at once.

        Raises:
            InputError: the file cannot be read, or holds numbers that are not finite.
        """
        path, stored = self._tensors[name]
        number = DTYPES[stored.dtype]
        rows, width = stored.shape[0], int(np.prod(stored.shape[1:], dtype=np.int64))
        step = rows if largest is None else max(1, largest // max(4 * width, 1))
        for start in range(0, rows, max(step, 1)):
            count = min(step, rows - start) * width
            place = stored.begin + start * width * number.itemsize
            try:
                values = np.fromfile(path, number, count, offset=place)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
            if values.size != count:
                raise InputError(f"{path}: has become shorter while it was read; copy it anew")
            with np.errstate(over="ignore", invalid="ignore"):
                values = values.astype(np.float32, copy=False)
                total = values.sum(dtype=np.float64)
            if not np.isfinite(total):
                raise InputError(
                    f"{path}: {name} holds numbers that are not finite: training went wrong; "
                    "take an earlier checkpoint"
                )
            yield values.reshape(-1, *stored.shape[1:])


def _tensors_of(path: Path) -> dict[str, tuple[Path, StoredArray]]:
    """Returns the tensors of a file, after the `safetensors` package has checked its header and size."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):  # Path.is_file() raises where the name is too long
        raise InputError(f"{path.with_name(path.name[:80])}: there is no such file; copy the model anew")
    try:
        with safe_open(path, framework="numpy"):
            pass
        header = read_header(path)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); copy it anew") from error
    return {name: (path, stored) for name, stored in header.items()}


def _read_index(directory: Path, index: Path) -> dict[str, str]:
    """Returns, for each tensor's name, the name of the file beside the index that holds it."""
    if not index.is_file():
        pickles = [
            path.name
            for path in sorted(directory.glob("*"))
            if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
        ]
        also = f" ({pickles[0]} is a pickle and is never read: convert it to safetensors)" if pickles else ""
        raise InputError(f"{directory}: holds no {WEIGHTS_FILE} and no {INDEX_FILE}{also}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index}: holds no weight_map of tensors and files; copy the model anew")
    for file in places.values():
        plain = isinstance(file, str) and Path(file).name == file and file.isprintable() and "\\" not in file
        if not plain or not file.endswith(".safetensors"):
            raise InputError(
                f"{index}: a shard is {str(file)[:80]!r}, it must be a .safetensors file beside the index, no path"
            )
    return places


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Creates the directory of a file, and turns errors of the file system into an `InputError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with _in_words(path):
        json_files.write_json(path, content)


def write_text(path: Path, content: str) -> None:
    """Writes a text file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with _in_words(path):
        replace_file(path, content)


def number_of_bytes(size: int | str) -> int:
    """Returns a size in bytes, given as 300, "300", "5GB" or "100 MB"; 1 GB is 10^9 bytes.

    Raises:
        InputError: the size is 0 or has another form.
    """
    found = re.fullmatch(r"(\d+) ?(|KB|MB|GB|TB)", str(size).strip().upper())
    if not found or int(found[1]) == 0:
        raise InputError(f"max_shard_size is {size!r}, it must be a number of bytes, or like '5GB'")
    return int(found[1]) * 1000 ** ("", "KB", "MB", "GB", "TB").index(found[2])


def write_weights(directory: Path, tensors: Iterable[tuple[str, np.ndarray]], largest: int) -> None:
    """Writes model.safetensors, or shards and an index where that file would be larger than `largest` bytes.

    Each file is written whole or not at all. Files of an earlier checkpoint with other shards are removed last.

    Args:
        directory: the directory, which is created if it is missing.
        tensors: the names and float32 values.
        largest: the largest size of a shard in bytes; a larger tensor has a shard to itself.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    size = total = 0
    for name, value in tensors:
        if shards[-1] and size + value.nbytes > largest:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
        total += value.nbytes
    files = [WEIGHTS_FILE]
    if len(shards) > 1:
        files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_tensors(directory / file, shard)
    if len(shards) > 1:
        places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": places})
        (directory / WEIGHTS_FILE).unlink(missing_ok=True)
    else:
        (directory / INDEX_FILE).unlink(missing_ok=True)
    for old in directory.glob("model-*.safetensors"):
        if old.name not in files and _SHARD.fullmatch(old.name):
            old.unlink()


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file of the same bytes as the `safetensors` package; transformers needs `pt` in the metadata.

    Raises:
        InputError: the file cannot be written.
    """
    entries = [array_entry(name, tensors[name]) for name in sorted(tensors)]
    with _in_words(path), replacing(path) as temporary:
        write_safetensors(temporary, entries, {"format": "pt"})
