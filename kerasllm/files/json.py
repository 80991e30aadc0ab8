"""Reading and writing of JSON, and conversion of values to what JSON can hold."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasllm.errors import InputError
from kerasllm.files.atomic import replace_file


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """Returns strict JSON: NumPy values become numbers and lists, NaN and infinities become null."""
    return json.dumps(_finite(plain(value)), indent=indent, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Returns a value with dataclasses, paths, tuples and NumPy values converted to what YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and hasattr(value, "dtype"):
        return value.item() if not getattr(value, "ndim", 0) else value.tolist()
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        InputError: the file is missing or is not JSON, it holds no object, or an object repeats a key.
    """
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object but a {type(content).__name__}")
    return content


def read_json_value(path: Path) -> Any:
    """Reads any JSON value from a file.

    Raises:
        InputError: the file is missing or is not JSON, or an object repeats a key.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repetition)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (UnicodeDecodeError, OSError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object's pairs as a dict, and refuses a repeated key, whose last value would win silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return found


def write_json(path: Path, content: Mapping[str, Any], *, ensure_ascii: bool = False) -> None:
    """Writes a JSON object, whole or not at all.

    Args:
        path: the file; its directory must exist.
        content: values that JSON can hold.
        ensure_ascii: whether characters beyond ASCII are escaped, so that lone surrogates can be written too.

    Raises:
        OSError: the file cannot be written.
    """
    replace_file(path, json.dumps(content, indent=2, ensure_ascii=ensure_ascii) + "\n")
