"""What the machine may do to a run."""

import itertools
import shutil
import signal
import time

import pytest

from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training import job
from kerasllm.training.callbacks import interruption
from kerasllm.training.callbacks.metrics_log import MetricsLog

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture
def options(corpus, tmp_path):
    """Of a tiny GPT, by the name of its output."""

    def make(name, *more) -> list:
        argv = ["--corpus", corpus, "--output", tmp_path / name, "--tokenizer", "characters"]
        argv += ["--model.num_layers", 1, "--model.num_heads", 2, "--model.hidden_dim", 8]
        argv += ["--context_length", 8, "--batch_size", 2, "--processes", 1, "--sample_tokens", 0]
        return [*argv, *more]

    return make


def interrupt_at_step_2(patch):
    """SIGTERM at the end of the second step."""

    def flush(self):
        original(self)
        if self.step == 2:
            signal.raise_signal(signal.SIGTERM)

    original = MetricsLog.flush
    patch.setattr(MetricsLog, "flush", flush)


def test_a_clock_set_back(options, run_recipe, tmp_path, monkeypatch):
    """An hour back after each look: nothing is measured by it that matters."""
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(hours) * 3600.0)
    assert run_recipe("pretrain_gpt", *options("a run 数据", "--steps", 4, "--checkpoint_minutes", 1e-6)) == 0
    assert (tmp_path / "a run 数据" / "checkpoints" / "step-00000004" / "state.json").is_file()


def test_other_data_in_the_same_file(options, run_recipe, corpus, tmp_path, monkeypatch, capsys):
    """A resumed run is refused them, and stays as it was."""
    text = tmp_path / "corpus.txt"
    text.write_bytes(corpus.read_bytes())
    argv = ["--corpus", text, *options("run", "--steps", 4)[2:]]
    with monkeypatch.context() as patch:
        interrupt_at_step_2(patch)
        assert run_recipe("pretrain_gpt", *argv) == 143
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    text.write_text(corpus.read_text().replace("cat", "cot"))
    assert run_recipe("pretrain_gpt", *argv, "--resume") == 2
    assert "was started with other data (corpus_sha256" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes().replace(
        b"resume: true", b"resume: false"
    ) == before
    text.write_bytes(corpus.read_bytes())
    assert run_recipe("pretrain_gpt", *argv, "--resume") == 0


def test_interrupted_in_a_validation_and_after_the_last_step(
    options, recipe, run_recipe, read_run, tmp_path, monkeypatch, capsys
):
    """The validation is broken off and made up for; a run whose patience is at its end learns no more, and ends
    with the best weights.
    """
    evaluate = CausalLanguageModeling.evaluate

    def better_until_step_6(self, model, batches):
        figures = evaluate(self, model, batches)
        return {**figures, "loss": figures["loss"] + abs(int(model.optimizer.iterations) - 6)}

    # What it learns in 30 steps moves the loss by less than 1, whatever the machine's last bits are.
    monkeypatch.setattr(CausalLanguageModeling, "evaluate", better_until_step_6)
    argv = ["--steps", 30, "--eval_interval", 1, "--restore_best", "--patience", 4]
    argv += ["--learning_rate", 0.01, "--warmup", 0, "--checkpoint_steps", 1000]
    assert run_recipe("pretrain_gpt", *options("whole", *argv)) == 0
    expected = read_run(tmp_path / "whole")
    best, last = expected[1]["best_step"], expected[1]["steps"]
    assert best == 6 and last == 10

    batches, original = itertools.count(1), interruption.break_off_if_told

    def told_in_the_best_validation():
        if next(batches) == best:  # each validation is of one batch here
            signal.raise_signal(signal.SIGTERM)
        original()

    output = options("other", *argv, "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(interruption, "break_off_if_told", told_in_the_best_validation)
        assert run_recipe("pretrain_gpt", *output) == 143

    def crash(*arguments):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(job, "write_model", crash)
        run_recipe("pretrain_gpt", *output)
    # As of a run that was killed while it removed old checkpoints.
    checkpoints = tmp_path / "other" / "checkpoints"
    shutil.copytree(checkpoints / (checkpoints / "best").read_text().strip(), checkpoints / "step-00000001")
    assert run_recipe("pretrain_gpt", *output) == 0
    names = [sorted(p.name for p in (tmp_path / run / "checkpoints").iterdir()) for run in ("whole", "other")]
    assert names[0] == names[1]
    out = capsys.readouterr().out
    assert f"resuming from step {best}" in out and f"resuming from step {last}" in out
    found = read_run(tmp_path / "other")
    for _, results in (expected, found):
        del results["seconds"], results["peak_memory_mib"]
    assert found == expected
    for name in ("model/model.safetensors", "checkpoints/best"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
