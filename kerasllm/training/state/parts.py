"""Checkpoints of divided variables: each process writes what it holds into a file of its own.

    checkpoints/step-00000040/part-00000.safetensors   what process 0 holds, `0`, `1` …
    checkpoints/step-00000040/part-00000.json          of each array the variable, its shape and place in it; SHA-256
    checkpoints/step-00000040/state.safetensors        variables that are not divided
    checkpoints/step-00000040/state.json               as of any checkpoint, and the checksum of each part

A place is a range [begin, end) for each axis, or one range of the elements in their order. So parts can be put together
for any other division, and on any backend. The processes share the directory; process 0 renames it into place when all
parts are in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.files.atomic import replace_file
from kerasllm.files.safetensors import Entry, file_hash, read_safetensors, write_safetensors

LONGEST_WAIT = 1800.0
"""Seconds that process 0 waits for the others' parts after its own is written; a lost process ends the run before."""

_SECONDS_BETWEEN_LOOKS = 0.05


def checksum(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON file's content without the entry "checksum", in hexadecimal."""
    content = {name: value for name, value in state.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def part_name(number: int) -> str:
    """Returns the name of a process's part, without the endings of its two files."""
    return f"part-{number:05d}"


def write_part(
    directory: Path, number: int, entries: Sequence[Entry], places: Sequence[dict[str, Any]]
) -> None:
    """Writes the part of a process; its JSON file comes last, and says that the part is whole.

    Args:
        directory: the checkpoint's, under its temporary name.
        number: the process.
        entries: the arrays.
        places: of each the `name` and `shape` of its variable and its `place`.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / f"{part_name(number)}.safetensors"
    arrays = {entry.name: dict(place) for entry, place in zip(entries, places, strict=True)}
    content = {"sha256": write_safetensors(path, entries), "arrays": arrays}
    content["checksum"] = checksum(content)
    replace_file(path.with_suffix(".json"), json.dumps(content) + "\n")


def wait_for_parts(directory: Path, count: int) -> dict[str, str]:
    """Returns the checksums of all processes' parts by name, once they are written.

    Raises:
        OSError: one is missing after `LONGEST_WAIT`, or cannot be read.
    """
    end = time.monotonic() + LONGEST_WAIT
    found: dict[str, str] = {}
    for number in range(count):
        path = directory / f"{part_name(number)}.json"
        failed = path.with_suffix(".failed")
        while not path.exists():
            if failed.exists() or time.monotonic() > end:
                raise OSError(f"process {number} has not written its part")
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        found[part_name(number)] = json.loads(path.read_text(encoding="utf-8"))["checksum"]
    return found


def check_parts(directory: Path, checksums: Mapping[str, str], number: int, count: int) -> None:
    """Checks every part's index, and the arrays of those that fall to process `number` of `count`.

    Raises:
        ValueError, OSError, LookupError: a file is missing or not what was written.
    """
    for position, (name, expected) in enumerate(sorted(checksums.items())):
        if not re.fullmatch(r"part-\d{5,}", name):
            raise ValueError(f"{name[:80]!r} is no part")
        content = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        if checksum(content) != content["checksum"] or content["checksum"] != expected:
            raise ValueError(f"{name}.json is not what was written")
        if position % count == number and file_hash(directory / f"{name}.safetensors") != content["sha256"]:
            raise ValueError(f"{name}.safetensors is not what was written")


class PartedArrays(Mapping[str, np.ndarray]):
    """The divided variables of a checkpoint by name, each put together when it is asked for.

    Args:
        directory: the checkpoint, of which `check_parts` has checked the files.
        names: of the parts.

    Raises:
        ValueError: the parts are not those of whole variables.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[tuple[list[slice], np.ndarray]]] = {}
        for part in names:
            content = json.loads((directory / f"{part}.json").read_text(encoding="utf-8"))
            arrays = read_safetensors(directory / f"{part}.safetensors")
            for key, entry in content["arrays"].items():
                shape = tuple(entry["shape"])
                if self.shapes.setdefault(entry["name"], shape) != shape:
                    raise ValueError(f"{part}.json: {entry['name']} has another shape than in other parts")
                place = [slice(*bounds) for bounds in entry["place"]]
                self._parts.setdefault(entry["name"], []).append((place, arrays[key]))
        for name, parts in self._parts.items():
            if sum(array.size for _, array in parts) != math.prod(self.shapes[name]):
                raise ValueError(f"the parts of {name} do not make a whole")

    def __getitem__(self, name: str) -> np.ndarray:
        parts, shape = self._parts[name], self.shapes[name]
        whole = np.empty(shape, parts[0][1].dtype)
        for place, array in parts:
            target = whole.reshape(-1) if len(place) == 1 else whole
            target[tuple(place)] = array
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def part_entries(
    name: str, shape: tuple[int, ...], dtype: str, pieces: Sequence[tuple[Any, Callable[[], np.ndarray]]]
) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yields what a process is to write of a variable: entries, and their places.

    Args:
        name: the variable's in the checkpoint.
        shape: that of the whole.
        dtype: the name of the dtype.
        pieces: of `backend.pieces`.
    """
    for number, (place, fetch) in enumerate(pieces):
        lengths = tuple(end - begin for begin, end in place)
        description = {"name": name, "shape": list(shape), "place": [list(bounds) for bounds in place]}
        yield Entry(f"{name}/{number}", lengths, dtype, fetch), description
