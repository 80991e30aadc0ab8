"""Named tensors in and out of safetensors files, one at a time, so that no second model lies in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.errors import InputError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class WeightFiles:
    """The tensors of a checkpoint directory: one model.safetensors, or shards with an index.

    Args:
        directory: holds model.safetensors or model.safetensors.index.json.

    Raises:
        InputError: there are no such files, or they are damaged.
    """

    def __init__(self, directory: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.directory = directory
        self._files: dict[str, Any] = {}
        for path in _files_of(directory):
            try:
                opened = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{path}: not a readable safetensors file ({error}); copy it anew"
                ) from error
            self._files |= dict.fromkeys(opened.keys(), opened)

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        return np.asarray(self._files[name].get_tensor(name)).astype(np.float32, copy=False)


def _files_of(directory: Path) -> list[Path]:
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    index = directory / INDEX_FILE
    if not index.is_file():
        pickled = " (pytorch_model.bin is a pickle and is never read: convert it to safetensors)"
        other = pickled if (directory / "pytorch_model.bin").exists() else ""
        raise InputError(f"{directory}: holds no {WEIGHTS_FILE} and no {INDEX_FILE}{other}")
    places = read_json(index).get("weight_map", {})
    names = list(places.values()) if isinstance(places, dict) else [places]
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise InputError(f"{index}: a shard's name must be a file beside the index, not a path: {names}")
    return [directory / name for name in sorted(set(names))]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: the file is missing, no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, OSError, RecursionError) as error:  # no UTF-8, numbers of thousands of digits, depth
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object but a {type(content).__name__}")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced, when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # safetensors makes its files private
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes model.safetensors, whole or not at all; the metadata says `pt`, which transformers asks for."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with replacing(directory / WEIGHTS_FILE) as temporary:
        try:
            save_file(
                {name: np.ascontiguousarray(value) for name, value in tensors.items()},
                temporary,
                {"format": "pt"},
            )
        except SafetensorError as error:
            raise InputError(
                f"{directory / WEIGHTS_FILE}: cannot be written ({error}); free some space or choose another place"
            ) from error
