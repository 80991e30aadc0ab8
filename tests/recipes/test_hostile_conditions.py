"""What the machine may do to a run."""

import time

import pytest


@pytest.mark.usefixtures("uncompiled")
def test_a_clock_set_back(corpus, run_recipe, tmp_path, monkeypatch):
    """An hour back after each look: nothing is measured by it that matters."""
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(hours) * 3600.0)
    argv = [
        "--corpus",
        corpus,
        "--output",
        tmp_path / "a run 数据",
        "--tokenizer",
        "characters",
        "--steps",
        "4",
    ]
    argv += [
        "--model.num_layers",
        "1",
        "--model.num_heads",
        "2",
        "--model.hidden_dim",
        "8",
        "--processes",
        "1",
    ]
    argv += [
        "--context_length",
        "8",
        "--batch_size",
        "2",
        "--checkpoint_minutes",
        "1e-6",
        "--sample_tokens",
        "0",
    ]
    assert run_recipe("pretrain_gpt", *argv) == 0
    assert (tmp_path / "a run 数据" / "checkpoints" / "step-00000004" / "state.json").is_file()
