"""Commands to paste, which a shell must read as they were meant."""

import subprocess
import sys

import pytest

from kerasllm.cli.commands import command, quoted


@pytest.mark.parametrize(
    "word",
    ["runs/x", "The cat is [MASK].", 'say "no"', "it's $5", "one\ttwo's", "", "a\\b c", "50 %!", "漢 字"],
)
def test_a_word_comes_back_as_it_was(word):
    shown = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, text=True)
    assert shown.stdout == word


def test_a_recipe_is_run_as_this_one_was(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    found = command("predict", ["--model", "run", "--text", "good film"])
    assert found.startswith("KERAS_BACKEND=jax ")
    assert found.endswith('predict --model run --text "good film"')
    assert "kerasllm" in found
    (tmp_path / "predict.py").touch()
    monkeypatch.delenv("KERAS_BACKEND")
    assert f"{tmp_path}/predict.py --model run" in command("predict", ["--model", "run"])
