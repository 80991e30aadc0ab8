"""JSON that every reader takes, and what is said of a file that holds none."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kerasllm.errors import InputError
from kerasllm.files.json import read_json, to_json, write_json


@dataclass
class Settings:
    path: Path
    rates: tuple[float, ...]


def test_values_of_all_kinds():
    value = {"settings": Settings(Path("a/b"), (0.5, float("nan"))), 1: np.float32(2), "more": np.arange(2)}
    expected = {"settings": {"path": "a/b", "rates": [0.5, None]}, "1": 2.0, "more": [0, 1]}
    assert json.loads(to_json(value)) == expected


def test_written_and_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ü": [1, None]})
    assert read_json(path) == {"ü": [1, None]} and "ü" in path.read_text(encoding="utf-8")
    write_json(path, {"half": "\ud800"}, ensure_ascii=True)
    assert read_json(path) == {"half": "\ud800"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{\n1}", r"a.json:2: not JSON \("),
        (b"[]", "a.json: holds no JSON object but a list"),
        (b'{"a": 1, "a": 2}', "a.json: cannot be read .*the key 'a' occurs twice"),
        (b"\xff", "a.json: cannot be read"),
        (None, "a.json: there is no such file"),
    ],
)
def test_what_is_no_object(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json")
