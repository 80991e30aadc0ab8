"""Pretraining end to end: the run directory, repeating, resuming, accumulating, going on."""

import signal

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from kerasllm.training.callbacks.metrics_log import MetricsLog

MODEL_FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def losses(lines):
    return [line["loss"] for line in lines if "loss" in line]


def test_run_directory(pretrained, read_run):
    """What people rely on is there, and says what it should."""
    lines, results = read_run(pretrained)
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert all("learning_rate" in line and "masked_lm_loss" in line for line in lines)
    assert [line["step"] for line in lines if "validation_loss" in line] == [20, 40]
    assert sorted(path.name for path in (pretrained / "model").iterdir()) == MODEL_FILES
    assert (pretrained / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert next((pretrained / "tensorboard" / "train").iterdir()).stat().st_size > 1000
    assert (pretrained / "checkpoints" / "step-00000040" / "state.safetensors").is_file()
    assert not list(pretrained.rglob(".*")), "temporary files or locks stay behind"
    figures = results["validation"]
    assert {"loss", "masked_lm_loss", "masked_lm_accuracy", "perplexity", "next_sentence_accuracy"} <= set(
        figures
    )
    assert figures["perplexity"] == pytest.approx(np.exp(figures["masked_lm_loss"]), rel=1e-5)
    assert figures["loss"] == pytest.approx(lines[-1]["validation_loss"], rel=1e-5)
    assert results["steps"] == 40 and results["seconds"] > 0
    assert results["backend"] in ("jax", "torch", "tensorflow")
    recorded = yaml.safe_load((pretrained / "config.yaml").read_text())
    assert (
        recorded["steps"] == 40
        and recorded["model"]["hidden_dim"] == 32
        and recorded["learning_rate"] == 0.01
    )
    card = (pretrained / "model" / "README.md").read_text()
    assert all(
        heading in card for heading in ("## Data", "## Results", "## Settings", "| `learning_rate` | 0.01 |")
    )
    assert "| training | animals.txt |" in card and str(pretrained.parent) not in card


def test_it_learns(pretrained, read_run):
    lines, results = read_run(pretrained)
    curve = [line["masked_lm_loss"] for line in lines]
    assert curve[0] == pytest.approx(np.log(len(load_vocabulary(pretrained))), abs=0.4)
    assert np.mean(curve[-5:]) < 0.6 * curve[0]
    assert results["validation"]["masked_lm_loss"] < 0.75 * curve[0]


def load_vocabulary(run):
    return load_file(run / "model" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]


@pytest.mark.usefixtures("without_xla")
def test_config_yaml_repeats_the_run(pretrained, run_recipe, read_run, tmp_path):
    """Same settings, same figures, same weights."""
    assert (
        run_recipe("pretrain_bert", "--config", pretrained / "config.yaml", "--output", tmp_path / "again")
        == 0
    )
    lines, results = read_run(tmp_path / "again")
    expected_lines, expected = read_run(pretrained)
    assert lines == expected_lines
    for name in ("seconds", "peak_memory_mib"):
        del results[name], expected[name]
    assert results == expected
    assert same_weights(tmp_path / "again", pretrained)


def same_weights(first, second) -> bool:
    file = "model/model.safetensors"
    return (first / file).read_bytes() == (second / file).read_bytes()


def at_step(monkeypatch, step, action):
    """Does something at the end of a step, after its line is written and before its checkpoint."""
    original = MetricsLog.on_step_end

    def patched(self, number, values):
        original(self, number, values)
        if number == step:
            action()

    monkeypatch.setattr(MetricsLog, "on_step_end", patched)


@pytest.mark.usefixtures("without_xla")
def test_interrupted_twice_and_resumed_equals_uninterrupted(
    pretrained, corpus, options, run_recipe, read_run, tmp_path, monkeypatch, capsys
):
    """A crash between two checkpoints, then SIGTERM; the weights end the same to the last bit, dropout on."""
    output = tmp_path / "run"
    argv = [*options(corpus, output), "--checkpoint_steps", "6"]

    def crash():
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        at_step(patch, 10, crash)
        run_recipe("pretrain_bert", *argv)
    assert not (output / "results.json").exists()
    assert run_recipe("pretrain_bert", *argv) == 2
    assert "--resume" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        at_step(patch, 21, lambda: signal.raise_signal(signal.SIGTERM))
        assert run_recipe("pretrain_bert", *argv, "--resume") == 143
    assert "resuming from step 6" in capsys.readouterr().out
    assert not (output / "results.json").exists() and not (output / "model").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run_recipe("pretrain_bert", "--output", output, "--resume") == 0  # its settings are in config.yaml
    assert "resuming from step 21" in capsys.readouterr().out
    assert same_weights(output, pretrained)
    assert read_run(output)[0] == read_run(pretrained)[0]
    assert read_run(output)[1]["validation"] == read_run(pretrained)[1]["validation"]


def test_resume_of_a_finished_run(pretrained, corpus, options, run_recipe, capsys):
    """It says so and leaves everything alone; without --resume it is refused."""
    before = {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")}
    assert run_recipe("pretrain_bert", *options(corpus, pretrained), "--resume") == 0
    assert capsys.readouterr().out == f"{pretrained} is finished: nothing to resume\n"
    assert run_recipe("pretrain_bert", *options(corpus, pretrained), "--resume", "--steps", "60") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "finished, with --steps 40" in line and "not extended to 60" in line
    assert line.endswith(f"--init {pretrained} --output NEW")
    assert run_recipe("pretrain_bert", *options(corpus, pretrained)) == 2
    assert "finished run" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")} == before


@pytest.mark.usefixtures("without_xla")
def test_gradient_accumulation_equals_the_big_batch(corpus, run_recipe, read_run, tiny, tmp_path):
    """8 x 1 and 2 x 4: one curve."""
    shared = ["--corpus", corpus, *tiny["pretraining"], "--model.dropout", "0", "--steps", "12"]
    shared += ["--validation_fraction", "0", "--learning_rate", "1e-3"]
    curves = []
    for name, batch_size, accumulation in (("big", 8, 1), ("small", 2, 4)):
        argv = [*shared, "--batch_size", batch_size, "--gradient_accumulation", accumulation]
        assert run_recipe("pretrain_bert", *argv, "--output", tmp_path / name) == 0
        lines, results = read_run(tmp_path / name)
        assert [line["step"] for line in lines] == list(range(1, 13)) and results["validation"] is None
        curves.append([[line[key] for key in ("loss", "masked_lm_loss", "learning_rate")] for line in lines])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_masked_lm_alone_with_whole_words(corpus, run_recipe, read_run, tiny, tmp_path):
    """RoBERTa's form: one segment, no next-sentence figures."""
    argv = ["--corpus", corpus, *tiny["pretraining"], "--steps", "8", "--output", tmp_path / "run"]
    assert run_recipe("pretrain_bert", *argv, "--objectives", "masked_lm", "--masking", "whole_word") == 0
    lines, results = read_run(tmp_path / "run")
    assert len(lines) == 8 and not any("next_sentence" in name for line in lines for name in line)
    assert {"loss", "masked_lm_loss", "masked_lm_accuracy", "perplexity"} == set(results["validation"])
    assert results["validation"]["loss"] == results["validation"]["masked_lm_loss"]


@pytest.mark.usefixtures("uncompiled")
def test_init_goes_on_with_another_objective(pretrained, corpus, run_recipe, read_run, tiny, tmp_path):
    """Its weights and tokenizer are the start: the first loss is near the last of the run before."""
    argv = [
        "--corpus",
        corpus,
        "--sequence_length",
        "32",
        "--batch_size",
        "8",
        "--processes",
        "1",
        "--steps",
        "4",
    ]
    argv += ["--objectives", "masked_lm", "sentence_order", "--init", pretrained, "--learning_rate", "1e-5"]
    assert run_recipe("pretrain_bert", *argv, "--output", tmp_path / "run") == 0
    lines, results = read_run(tmp_path / "run")
    before = [line["masked_lm_loss"] for line in read_run(pretrained)[0]]
    assert np.mean([line["masked_lm_loss"] for line in lines]) == pytest.approx(
        np.mean(before[-8:]), rel=0.15
    )
    assert "next_sentence_accuracy" in results["validation"]
    tokenizers = [(run / "model" / "tokenizer.json").read_text() for run in (pretrained, tmp_path / "run")]
    assert tokenizers[0] == tokenizers[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--sequence_length", "64"], "above --model.max_sequence_length 32"),
        (["--validation_fraction", "1"], "--validation_fraction"),
        (["--batch_size", "4000"], "fewer than one step"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
        (["--objectives", "next_sentence", "sentence_order"], "objectives"),
        (["--model.num_layer", "3"], "did you mean --model.num_layers?"),
    ],
)
def test_mistakes_leave_nothing_behind(corpus, run_recipe, tiny, tmp_path, capsys, change, message):
    argv = [*tiny["pretraining"], *change, "--output", tmp_path / "run"]
    if "--corpus" not in change:
        argv += ["--corpus", corpus]
    assert run_recipe("pretrain_bert", *argv) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert not (tmp_path / "run").exists()
