"""A batch that is measured is recorded and taken again, and a run with --deterministic repeats bit by bit."""

import signal

import keras
import pytest
import yaml

from kerasllm import processes
from kerasllm.training import auto_batch
from kerasllm.training.callbacks.metrics_log import MetricsLog
from kerasllm.training.hardware.batch_size import Memory

MODEL = [
    *(
        "--model.num_layers",
        "1",
        "--model.num_heads",
        "2",
        "--model.hidden_dim",
        "16",
        "--model.dropout",
        "0.1",
    ),
    *("--tokenizer", "characters", "--context_length", "16", "--processes", "1", "--seed", "3"),
]
SHORT = (
    ["--jit_compile", "false"] if keras.backend.backend() == "tensorflow" else []
)  # which takes longer than the rest
SHORT += ["--steps", "4", "--checkpoint_steps", "2", "--validation_fraction", "0", "--sample_tokens", "0"]


@pytest.fixture
def text(tmp_path):
    """Windows for a batch of 2 rows."""
    path = tmp_path / "text.txt"
    path.write_text("a cat sat on a mat." * 3, encoding="utf-8")
    return path


@pytest.fixture
def as_before(monkeypatch):
    """What --deterministic has switched on is off again."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    if keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(False)
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework import config

        config.disable_op_determinism()


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("as_before")
def test_a_measured_batch_is_recorded_and_a_resumed_run_and_a_repeat_end_the_same(
    text, run_recipe, tmp_path, monkeypatch, capsys
):
    options = ["--corpus", text, "--deterministic", *SHORT, *MODEL]
    path, other = tmp_path / "run", tmp_path / "other"
    plain = MetricsLog.on_step_end

    def interrupt(self, step, values):
        plain(self, step, values)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_step_end", interrupt)
        assert run_recipe("pretrain_gpt", *options, "--batch_size", "auto", "--output", path) == 143
    shown = capsys.readouterr().err
    assert "--batch_size 2, the whole data set (peak memory of a step of 1: " in shown
    settings = yaml.safe_load((path / "config.yaml").read_text())
    assert settings["batch_size"] == 2 and settings["deterministic"] is True
    measured = settings["resolved"]["measured_memory"]
    assert measured["peak_gib"].keys() == {"1", "2"}
    assert 0 < measured["peak_gib"]["1"] < measured["usable_gib"]

    assert run_recipe("pretrain_gpt", "--output", path, "--resume", "--deterministic", "false") == 2
    assert "was started with deterministic True, not False" in capsys.readouterr().err
    monkeypatch.setattr(auto_batch, "memory_of_step", None)  # nothing is measured again
    assert run_recipe("pretrain_gpt", "--output", path, "--resume", "--batch_size", "auto") == 0
    assert run_recipe("pretrain_gpt", "--config", path / "config.yaml", "--output", other) == 0
    assert weights(path) == weights(other)
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (path, other)]
    assert [len(some) for some in lines] == [4, 4]


@pytest.fixture
def measured(monkeypatch):
    """Sizes of batches whose steps seem to take 100 MiB and 1 MiB a row, of 200 MiB that may be used."""
    sizes = []

    def measure(make_model, batch, before):
        rows = len(batch[1])
        sizes.append(rows)
        return Memory(100 * 2**20, (100 + rows) * 2**20)

    monkeypatch.setattr(auto_batch, "memory_of_step", measure)
    monkeypatch.setattr(auto_batch, "usable_memory", lambda limit: int((limit or 0.2) * 1000 * 2**20))
    return sizes


def test_what_does_not_fit_is_told_in_a_line_and_nothing_is_written(
    text, run_recipe, tmp_path, measured, capsys
):
    path = tmp_path / "run"
    options = [
        "--corpus",
        text,
        "--output",
        path,
        "--batch_size",
        "auto",
        "--memory_limit",
        "0.05",
        *SHORT,
        *MODEL,
    ]
    assert run_recipe("pretrain_gpt", *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "--batch_size auto: a step of 1 takes 0.1 GiB, and 0.05 GiB may be used" in line
    assert measured == [1] and not path.exists()


def test_several_processes_are_refused(text, run_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "place", lambda: (0, 2))
    monkeypatch.setattr("kerasllm.backend.join", lambda: (0, 2))
    monkeypatch.setattr(processes, "end", lambda *given: None)
    options = ["--corpus", text, "--output", tmp_path / "run", *SHORT, *MODEL]
    assert run_recipe("pretrain_gpt", *options, "--batch_size", "auto") == 2
    assert "--batch_size auto measures one process: of several, give a number" in capsys.readouterr().err


def test_a_choice_by_time_is_not_deterministic(text, run_recipe, tmp_path, capsys):
    options = ["--corpus", text, "--output", tmp_path / "run", *SHORT, *MODEL, "--precision", "auto"]
    assert run_recipe("pretrain_gpt", *options, "--deterministic") == 2
    assert "--precision auto goes by the time" in capsys.readouterr().err


def test_another_word_than_auto(text, run_recipe, tmp_path, capsys):
    options = ["--corpus", text, "--output", tmp_path / "run", *SHORT, *MODEL]
    assert run_recipe("pretrain_gpt", *options, "--batch_size", "all") == 2
    assert "--batch_size: 'all' is not a whole number or auto" in capsys.readouterr().err
