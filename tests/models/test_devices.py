"""Several devices: the curve of one, weights that are divided, and settings that do not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import kerasllm
from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.models.devices import check_rows, mesh_sizes, read_layout
from kerasllm.models.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="several devices are JAX's")
def test_four_devices_give_the_curve_of_one(xla_flags):
    """Dropout, clipping, weights of labels and the loss in chunks on."""
    flags = f"{xla_flags('jax')} --xla_force_host_platform_device_count=4"
    families = ["GPT"]  # `tox run -e distributed` takes all, on more meshes
    assert set(families) <= set(FAMILIES)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("device_curves.py")), *families],
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert line["losses"] < 1e-5 and line["evaluation"] < 1e-5, line
        _, fsdp, tensor = line["mesh"]
        assert 0.9 / (fsdp * tensor) < line["share"] < 1.35 / (fsdp * tensor), line


def test_meshes():
    one = {"replica": 1, "fsdp": -1, "tensor": 1}
    assert mesh_sizes(one, 1) == {"replica": 1, "fsdp": 1, "tensor": 1}
    assert mesh_sizes(one | {"tensor": 2}, 8) == {"replica": 1, "fsdp": 4, "tensor": 2}
    assert mesh_sizes({"replica": 2, "fsdp": 2, "tensor": 1}, 4) == {"replica": 2, "fsdp": 2, "tensor": 1}
    for wrong, count in ((one | {"tensor": 3}, 4), (one | {"fsdp": 2}, 4), (one | {"fsdp": 8}, 4)):
        with pytest.raises(InputError, match="has 4 devices, and their product must be that"):
            mesh_sizes(wrong, count)
    for wrong in (one | {"tensor": 0}, one | {"tensor": -1}, one | {"replica": -2}):
        with pytest.raises(InputError, match="each must be at least 1, or one of them -1"):
            mesh_sizes(wrong, 4)
    check_rows(8, {"replica": 2, "fsdp": 2, "tensor": 3})
    with pytest.raises(InputError, match="batch_size 6 cannot be divided among 4 devices"):
        check_rows(6, {"replica": 2, "fsdp": 2, "tensor": 3})


def test_one_device_is_left_as_it_is():
    assert backend.device_count() == 1 and kerasllm.distribute() == (0, 1)
    assert keras.backend.backend() != "jax" or keras.distribution.distribution() is None
    with pytest.raises(InputError, match=r"replica 2 .* has 1 device"):
        kerasllm.distribute(replica=2, fsdp=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "must map paths"),
        ("'(': [fsdp]", "no regular expression"),
        ("3: [fsdp]", "no regular expression"),
        ("embeddings/token: fsdp", "must be a list"),
        ("embeddings/token: [data, null]", "must be a list"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_layouts(content, message, tmp_path):
    (tmp_path / "layout.yaml").write_text(content)
    with pytest.raises(InputError, match=rf"layout\.yaml: .*{message}"):
        read_layout(tmp_path / "layout.yaml")


def test_a_layout(tmp_path):
    (tmp_path / "layout.yaml").write_text("embeddings/.*: [tensor, null]\nhead/kernel: []\n")
    assert read_layout(tmp_path / "layout.yaml") == [("embeddings/.*", ("tensor", None)), ("head/kernel", ())]
