"""Against the `safetensors` package: it reads what is written here, and the other way round."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kerasllm.files.safetensors import array_entry, read_header, read_safetensors, write_safetensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "b": np.array(3.5, np.float32),
    "c": np.zeros((0, 4), np.float32),
}


def test_the_bytes_are_those_of_the_package(tmp_path):
    digest = write_safetensors(
        tmp_path / "ours", [array_entry(*named) for named in ARRAYS.items()], {"format": "pt"}
    )
    save_file({name: np.ascontiguousarray(a) for name, a in ARRAYS.items() if a.ndim}, tmp_path / "theirs")
    contiguous = {name: array.copy(order="C") for name, array in ARRAYS.items()}
    save_file(contiguous, tmp_path / "theirs", {"format": "pt"})
    content = (tmp_path / "ours").read_bytes()
    assert content == (tmp_path / "theirs").read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int8", "uint8", "bool"])
def test_kinds_of_numbers(dtype, tmp_path):
    values = np.array([0, 1, 3]).astype(dtype)
    write_safetensors(tmp_path / "file", [array_entry("a", values)])
    (theirs,) = load_file(tmp_path / "file").values()
    (ours,) = read_safetensors(tmp_path / "file").values()
    for found in (theirs, ours):
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype


def test_bfloat16_and_the_header(tmp_path):
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    write_safetensors(tmp_path / "file", [array_entry("x", np.arange(3)), array_entry("y", values)])
    assert read_safetensors(tmp_path / "file")["y"].tolist() == [1.5, -2]
    stored = read_header(tmp_path / "file")["y"]
    assert (stored.dtype, stored.shape, stored.end - stored.begin) == ("BF16", (2,), 4)
    assert stored.end == (tmp_path / "file").stat().st_size


def test_what_is_no_safetensors_file(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff" * 8)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_header(tmp_path / "file")
