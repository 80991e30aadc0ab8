"""Which backend is taken where KERAS_BACKEND is not set, in processes that see only some backends."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parents[2]
SEES = """
import importlib.util, json, sys
real = importlib.util.find_spec
def find_spec(name, *more):
    if name in ("jax", "torch", "tensorflow"):
        return json.__spec__ if name in sys.argv[1:] else None
    return real(name, *more)
importlib.util.find_spec = find_spec
import kerasllm.backend.choice
print(kerasllm.backend.choice.choose())
"""


def chosen(home, *installed, says=None, backend=None):
    home.mkdir(exist_ok=True)
    if says:
        (home / "keras.json").write_text(f'{{"backend": "{says}"}}')
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {"PYTHONPATH": str(ROOT), "KERAS_HOME": str(home)}
    environment |= {"KERAS_BACKEND": backend} if backend else {}
    command = [sys.executable, "-c", SEES, *installed]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return ended.stdout.strip() or ended.stderr.strip()


def test_the_only_one_that_is_installed_is_taken(tmp_path):
    here = keras.backend.backend()
    other = "jax" if here == "tensorflow" else "tensorflow"
    assert chosen(tmp_path, here, says=other) == here


@pytest.mark.parametrize(
    ("installed", "says", "backend", "parts"),
    [
        (
            ["jax", "torch"],
            "jaxx",
            None,
            ["KERAS_BACKEND is not set", "keras.json says jaxx", "set KERAS_BACKEND=jax"],
        ),
        (["jax", "torch"], None, None, ["so Keras takes tensorflow, which is not installed"]),
        (["torch"], None, "jax", ["KERAS_BACKEND is jax, which is not installed: set KERAS_BACKEND=torch"]),
        ([], None, None, ["install one of them"]),
    ],
)
def test_otherwise_the_choice_is_the_users(tmp_path, installed, says, backend, parts):
    line = chosen(tmp_path, *installed, says=says, backend=backend)
    assert line.startswith("error: ") and "\n" not in line
    assert all(part in line for part in parts), line
