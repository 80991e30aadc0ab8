"""Validation changes nothing but the log."""

import io
import math

import keras
import numpy as np
import pytest

from kerasllm.errors import InputError
from kerasllm.training.callbacks.checkpoint import Checkpoint, restore
from kerasllm.training.callbacks.evaluation import Evaluation
from kerasllm.training.callbacks.metrics_log import MetricsLog, read_metrics
from kerasllm.training.callbacks.progress import Progress


@pytest.mark.parametrize("seeded", [True, False], ids=["seeded", "unseeded"])
def test_training_is_the_same_with_and_without(small, seeded):
    """Weights, optimizer, seed generators, bit for bit."""
    final = []
    for with_evaluation in (False, True):
        keras.utils.set_random_seed(7)
        model = small.build(seeded)
        evaluation = Evaluation(
            lambda m: m.evaluate(small.batches(90, 93), return_dict=True, verbose=0) | {"answer": 42},
            interval=2,
            total_steps=7,
        )
        modes = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs, m=model, to=modes: to.append(
                getattr(m, "training", None)
            )
        )
        small.train(model, 0, 7, [evaluation, watch] if with_evaluation else [])
        final.append(small.arrays(model))
    assert all(np.array_equal(a, b) for a, b in zip(*final, strict=True))
    assert evaluation.figures["answer"] == 42
    assert math.isclose(
        evaluation.figures["loss"], model.evaluate(small.batches(90, 93), verbose=0), rel_tol=1e-6
    )
    if keras.backend.backend() == "torch":
        assert modes == [True] * 7


def test_own_function_sees_the_weights_of_the_step(small, tmp_path):
    """Figures go to the log, on the line of the step where there is one."""
    seen = []

    def evaluate(model):
        seen.append(float(np.sum(keras.ops.convert_to_numpy(model.weights[0]))))
        return {"loss": len(seen), "accuracy": 0.5}

    model = small.build()
    log = MetricsLog(tmp_path, total_steps=5, log_interval=2)
    excluded = []  # from the speed that is shown
    log.on_exclude = excluded.append
    small.train(model, 0, 5, [log, Evaluation(evaluate=evaluate, interval=3, total_steps=5, metrics_log=log)])
    assert len(excluded) == 2
    assert min(excluded) > 0
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 3, 4, 5]
    assert "loss" not in lines[1]
    assert [lines[1]["validation_loss"], lines[3]["validation_loss"]] == [1, 2]
    assert "loss" in lines[3]
    assert lines[3]["validation_accuracy"] == 0.5
    assert seen[0] != seen[1] == float(np.sum(keras.ops.convert_to_numpy(model.weights[0])))


def script(values):
    """An `evaluate` that returns these losses in turn."""
    remaining = iter(values)
    return lambda model: {"loss": next(remaining)}


def test_patience_and_best_weights(small, tmp_path, capsys):
    """Stops after two without a better one, logs the last line, and goes back to the best."""
    model = small.build()
    kept = {}

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kept[batch + 1] = [np.array(w) for w in self.model.get_weights()]

    log = MetricsLog(tmp_path, total_steps=9, log_interval=4)
    evaluation = Evaluation(
        evaluate=script([3, 1, math.nan, 2, 0]),
        interval=1,
        total_steps=9,
        patience=2,
        restore_best=True,
        metrics_log=log,
    )
    small.train(model, 0, 9, [Keep(), log, evaluation])
    assert log.step == 4
    assert (evaluation.best_step, evaluation.best_value) == (2, 1)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["validation_loss"] == 2
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), kept[2], strict=True))
    assert "stopped at step 4" in capsys.readouterr().err


def test_best_survives_a_resume(small, tmp_path):
    """Best weights and patience are part of the checkpoint."""
    model = small.build()

    def callbacks(losses, restored=None):
        step = restored.step if restored else 0
        evaluation = Evaluation(
            evaluate=script(losses), interval=1, total_steps=4, start_step=step, restore_best=True
        )
        return evaluation, Checkpoint(tmp_path, steps=1, callbacks=[evaluation], restored=restored)

    first = callbacks([2, 1, 3])
    small.train(model, 0, 3, first)
    best = [np.array(values) for values in first[0]._best_weights]
    other = small.build()
    second = callbacks([5], restore(other, tmp_path))
    small.train(other, 3, 4, second)
    assert second[0].best_step == 2
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), best, strict=True))


def test_what_is_better_follows_from_the_name(small):
    """Accuracy when it is greater, a loss when it is less."""
    for name, best in (("accuracy", 2), ("error", 1)):
        values = iter([0.1, 0.9])
        evaluation = Evaluation(
            evaluate=lambda model, name=name, values=values: {name: next(values)},
            interval=1, total_steps=2, monitor=f"validation_{name}",
        )  # fmt: skip
        small.train(small.build(), 0, 2, [evaluation])
        assert evaluation.best_step == best


def test_unknown_figure_is_named(small):
    """With those there are."""
    evaluation = Evaluation(evaluate=script([1]), interval=1, total_steps=2, monitor="f1")
    with pytest.raises(InputError, match="gives loss, but not 'f1'"):
        small.train(small.build(), 0, 2, [evaluation])


def test_each_validation_is_shown_and_logged(small, tmp_path):
    """With the best so far, which the picture marks, also after a resume; a sample goes to TensorBoard."""
    losses = iter([3.0, 2.0, 2.5])
    stream, samples, activities = io.StringIO(), [], []
    progress = Progress(5, stream=stream)

    def evaluate(model):
        activities.append(progress.activity)
        return {"loss": next(losses), "accuracy": 0.25, "tokens": 8192.0}

    log = MetricsLog(tmp_path, total_steps=5)
    log._events.add_text = lambda step, tag, text: samples.append((step, tag, text))
    settings = {"interval": 2, "total_steps": 5, "metrics_log": log, "progress": progress}
    evaluation = Evaluation(evaluate, sample=lambda model, step: f"sample {step}", **settings)
    told = []  # when the log has the figures and the best is marked

    def hear(step, figures):
        told.append((step, figures["loss"], log.last["validation_loss"], log.best_step))

    evaluation.on_validation = hear
    small.train(small.build(), 0, 5, [log, progress, evaluation])
    assert told == [(2, 3.0, 3.0, 2), (4, 2.0, 2.0, 4), (5, 2.5, 2.5, 4)]
    assert [line for line in stream.getvalue().splitlines() if "validation" in line] == [
        "step 2: validation loss 3.0000, accuracy 0.2500, the best so far",
        "step 4: validation loss 2.0000, accuracy 0.2500, the best so far",
        "step 5: validation loss 2.5000, accuracy 0.2500",
    ]
    assert activities == ["validating …"] * 3 and progress.activity == ""
    assert samples == [(step, "sample", f"sample {step}") for step in (2, 4, 5)]
    assert log.best_step == 4
    resumed = MetricsLog(tmp_path, total_steps=9, start_step=5)
    again = Evaluation(evaluate, total_steps=9, metrics_log=resumed)
    again.on_validation = lambda step, figures: told.append((step, figures["loss"]))
    again.make_up()  # nothing was validated yet
    again.set_state(evaluation.get_state())
    again.make_up()
    assert resumed.best_step == 4 and told[3:] == [(5, 2.5)]
