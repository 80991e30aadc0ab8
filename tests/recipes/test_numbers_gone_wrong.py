"""A batch that gives no number: the run stops before it learns from it, or leaves it out, and says so."""

import json

import numpy as np
import pytest

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.errors import InputError
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.callbacks.metrics_log import read_metrics
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.state.bad_batch import replay_bad_batch, save_bad_batch

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture
def train(corpus, run_recipe, tmp_path, monkeypatch):
    """Runs pretraining of 12 steps with weights of NaN in some batches."""

    def run(output, *more, bad=()) -> int:
        def spoilt(self, index):
            inputs, labels, weights = original(self, index)
            if self.start_step + index in bad:
                weights = np.full_like(weights, np.nan)
            return inputs, labels, weights

        argv = [
            "--corpus",
            corpus,
            "--output",
            tmp_path / output,
            "--tokenizer",
            "characters",
            "--steps",
            "12",
        ]
        argv += ["--model.num_layers", "1", "--model.num_heads", "2", "--model.hidden_dim", "16"]
        argv += [
            "--model.dropout",
            "0.1",
            "--context_length",
            "16",
            "--batch_size",
            "4",
            "--checkpoint_steps",
            "3",
        ]
        argv += ["--validation_fraction", "0", "--sample_tokens", "0", "--processes", "1", *more]
        with monkeypatch.context() as patch:
            original = CausalBatches.undivided
            patch.setattr(CausalBatches, "undivided", spoilt)
            return run_recipe("pretrain_gpt", *argv)

    return run


def last_words(capsys) -> str:
    """The one line that says why the run was stopped, the last one."""
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if line.startswith("stopped at"))
    assert line == lines[-1]
    return line


def contents(path):
    """Of all files; the settings as they are with `--resume`."""
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    files[path / "config.yaml"] = files[path / "config.yaml"].replace(b"resume: true", b"resume: false")
    return files


def checkpoints(path):
    return sorted(place.name for place in (path / "checkpoints").iterdir())


def test_stop_replay_and_skip(train, tmp_path, capsys):
    """Batch 7 is bad: step 8. What is saved before stays; the batch can be run again; the run can go on without it."""
    path = tmp_path / "run"
    assert train("run", bad={7}) == 3
    error = last_words(capsys)
    assert error.startswith("stopped at step 8: loss nan, gradient norm nan; --resume goes on from the last")
    assert "--guard.non_finite skip" in error and str(path / "bad_batch" / "step-00000008") in error
    assert checkpoints(path) == ["step-00000003", "step-00000006"]
    assert not (path / "model").exists() and not (path / "results.json").exists()

    before = contents(path)
    assert train("run", "--resume", "--guard.replay") == 0
    again, then = capsys.readouterr().out.splitlines()[-2:]
    assert again.startswith("step 8 again: ") and again.count("nan") == 2
    assert then.partition(": ")[2] == again.partition(": ")[2]
    assert contents(path) == before

    assert train("run", "--resume", bad={7}) == 3, "the same again"
    assert train("run", "--resume", "--guard.non_finite", "skip", bad={7}) == 0
    assert "batch left out (1 of 10)" in capsys.readouterr().err
    lines = read_metrics(path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line.get("skipped") for line in lines if "skipped" in line] == [1]
    assert [line["step"] for line in lines if line["loss"] is None] == [8]
    assert json.loads((path / "results.json").read_text())["steps"] == 12


def test_a_replay_gives_the_very_numbers(tmp_path):
    """Weights, dropout and batch are those of the step, to the last bit; shown with one that is finite."""
    random = np.random.default_rng(0)
    batches = [random.integers(0, 9, (2, 9)) for _ in range(4)]

    def build():
        shape = {
            "vocabulary_size": 9,
            "num_layers": 1,
            "num_heads": 2,
            "hidden_dim": 8,
            "max_sequence_length": 8,
        }
        model = GPTCausalLM(GPTConfig(dropout=0.3, **shape), seed=1)
        CausalLanguageModeling().compile(model, adamw(1e-2))
        model.catch_non_finite = True
        return model

    def batch(tokens):
        return {"token_ids": tokens[:, :-1]}, tokens[:, 1:], np.ones((2, 8), "float32")

    model = build()
    for tokens in batches[:3]:
        model.train_on_batch(*batch(tokens))
    place = save_bad_batch(tmp_path, model, batch(batches[3]), 4, {"loss": float("nan")})
    figures = model.train_on_batch(*batch(batches[3]), return_dict=True)
    again, then = replay_bad_batch(tmp_path, build()).splitlines()
    assert again == f"step 4 again: gradient_norm {figures['gradient_norm']:.8g}, loss {figures['loss']:.8g}"
    assert then.endswith(": loss nan") and place.name == "step-00000004"
    with pytest.raises(InputError, match="no batch to replay: none has stopped"):
        replay_bad_batch(tmp_path / "none", build())
    spoilt = bytearray((place / "batch.safetensors").read_bytes())
    spoilt[-1] ^= 1
    (place / "batch.safetensors").write_bytes(spoilt)
    with pytest.raises(InputError, match=r"batch\.safetensors is damaged"):
        replay_bad_batch(tmp_path, build())
    (place / "state.json").write_text("{")
    with pytest.raises(InputError, match="no batch to replay: it is damaged"):
        replay_bad_batch(tmp_path, build())


def test_too_many(train, tmp_path, capsys):
    """The limit counts all sessions."""
    skip = ["--guard.non_finite", "skip", "--guard.skip_limit", "2"]
    assert train("run", *skip, bad={1, 5, 9}) == 3
    assert "stopped at step 10" in (error := capsys.readouterr().err)
    assert "2 batches had been left out before" in error
    assert train("run", "--resume", *skip, bad={9, 10}) == 3
    assert "stopped at step 10" in capsys.readouterr().err


def test_loss_spike(train, tmp_path, capsys, monkeypatch):
    """A loss far above its like stops the run, and what it did to the weights is not saved."""
    from kerasllm.training.callbacks import number_guard

    monkeypatch.setattr(number_guard, "_FEWEST", 4)
    monkeypatch.setattr(number_guard, "_WINDOW", 8)
    argv = ["--guard.loss_spike", "1.5", "--learning_rate", "0.1", "--warmup", "0"]
    assert train("run", *argv, "--learning_rate", "1e-3") == 0

    original = number_guard.NumberGuard.on_step_end

    def leaping(self, step, values):
        original(self, step, {**values, "loss": values["loss"] * (2 if step == 9 else 1)})

    monkeypatch.setattr(number_guard.NumberGuard, "on_step_end", leaping)
    assert train("leaps", *argv, "--learning_rate", "1e-3") == 3
    error = last_words(capsys)
    assert "stopped at step 9: the loss" in error and "above 1.5 times the median" in error
    assert checkpoints(tmp_path / "leaps") == ["step-00000003", "step-00000006"]
