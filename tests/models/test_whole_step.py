"""A training step of `fit` as users change it: compiled whole, it trains as Keras' own uncompiled one."""

import keras
import numpy as np
import pytest

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.tasks import CausalLanguageModeling

SHAPE = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
TOKENS = np.random.default_rng(0).integers(0, 50, (40, 17)).astype("int32")
STEPS = 10


class Batches(keras.utils.PyDataset):
    def __init__(self, bad=(), left_out=()):
        super().__init__()
        self.numbers = [number for number in range(STEPS) if number not in left_out]
        self.bad = bad

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        rows = TOKENS[4 * number : 4 * number + 4]
        weights = (rows[:, 1:] > 5).astype("float32")
        if number in self.bad:
            weights[1, 2] = np.nan
        return {"token_ids": rows[:, :-1]}, rows[:, 1:], weights


class Meddling(keras.callbacks.Callback):
    """Looks at logs and weights at each batch, and changes what training goes by."""

    def __init__(self, freezes=False):
        super().__init__()
        self.freezes, self.seen = freezes, []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        table = model.backbone.embeddings.token
        self.seen.append(
            (logs["loss"], logs["gradient_norm"], float(keras.ops.convert_to_numpy(table.value).sum()))
        )
        model.optimizer.learning_rate = 1e-2 / (batch + 1)
        if batch == 3:
            table.assign(table.value * 0.5)
        if batch == 4:
            model.optimizer.weight_decay = 0.3
            model.make_train_function(force=True)  # as the others trace it once
        if batch == 6 and self.freezes:
            model.backbone.embeddings.trainable = False
            model.make_train_function(force=True)


class Counting(keras.optimizers.AdamW):
    """Takes a larger step at every third call, which it counts itself."""

    calls = 0

    def apply(self, grads, trainable_variables=None):
        self.calls += 1
        factor = 2.0 if self.calls % 3 == 0 else 1.0
        super().apply([grad * factor for grad in grads], trainable_variables)


class OwnStep(GPTCausalLM):
    """Adds to the logs of the step, and has a loss of its own."""

    def train_step(self, *args):
        results = super().train_step(*args)
        logs = results[0] if isinstance(results, tuple) else results
        logs = {**logs, "doubled": logs["loss"] * 2}
        return (logs, *results[1:]) if isinstance(results, tuple) else logs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight, training) * 1.5


def adamw(cls=keras.optimizers.AdamW, **settings):
    return cls(1e-2, weight_decay=0.1, global_clipnorm=0.5, **settings)


def trained(optimizer, *, compiled, batches=None, callbacks=(), cls=GPTCausalLM, dropout=0.1):
    """What training changes, and the history."""
    model = cls(GPTConfig(dropout=dropout, **SHAPE), seed=3)
    loss = CausalLanguageModeling().losses_and_metrics(model, "mean_with_sample_weight")
    model.compile(optimizer, **loss, jit_compile=compiled, run_eagerly=not compiled)
    model.per_step_metrics = model.catch_non_finite = True
    history = model.fit(
        batches or Batches(), shuffle=False, verbose=0, callbacks=list(callbacks), epochs=1
    ).history
    variables = [*model.variables, *optimizer.variables]
    return [
        np.array(keras.ops.convert_to_numpy(v)) for v in variables if v is not optimizer.iterations
    ], history


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-5)


FREEZES = (
    [False, True] if keras.backend.backend() == "torch" else [False]
)  # elsewhere the step is one program


@pytest.mark.parametrize("freezes", FREEZES)
def test_callbacks_that_change_what_training_goes_by(freezes):
    results = []
    for compiled in (True, False):
        meddling = Meddling(freezes)
        state, history = trained(adamw(), compiled=compiled, callbacks=[meddling])
        results.append((state, history, meddling.seen))
    (state, history, seen), (expected, expected_history, expected_seen) = results
    check(state, expected)
    assert len(seen) == STEPS and history.keys() == expected_history.keys()
    np.testing.assert_allclose(seen, expected_seen, rtol=2e-4)
    np.testing.assert_allclose(history["loss"], expected_history["loss"], rtol=1e-4)


@pytest.mark.parametrize("kind", ["own train_step", "ema"])
def test_other_steps_and_optimizers(kind):
    results = []
    for compiled in (True, False):
        optimizer = {
            "own train_step": lambda: adamw(),
            "ema": lambda: adamw(use_ema=True, ema_momentum=0.9),
        }[kind]()
        cls = OwnStep if kind == "own train_step" else GPTCausalLM
        results.append(trained(optimizer, compiled=compiled, cls=cls))
    (state, history), (expected, expected_history) = results
    check(state, expected)
    np.testing.assert_allclose(history["loss"], expected_history["loss"], rtol=1e-4)
    assert ("doubled" in history) == (kind == "own train_step")


def test_a_bad_batch_in_a_whole_step_is_as_if_it_had_not_been():
    """Weights, momentum and dropout's counters, to the bit; SGD goes by nothing else."""
    model = GPTCausalLM(GPTConfig(dropout=0.1, **SHAPE), seed=3)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0)
    loss = CausalLanguageModeling().losses_and_metrics(model, "mean_with_sample_weight")
    model.compile(optimizer, **loss, jit_compile=True)
    model.per_step_metrics = model.catch_non_finite = True
    optimizer.build(model.trainable_variables)
    variables = [*model.variables, *optimizer.variables]
    start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    results = []
    for batches in (Batches(bad=[4]), Batches(left_out=[4]), Batches()):  # in one step, compiled once
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        model.fit(batches, shuffle=False, verbose=0)
        after = [*model.variables, *(v for v in optimizer.variables if v is not optimizer.iterations)]
        results.append([np.array(keras.ops.convert_to_numpy(variable)) for variable in after])
    with_bad, without, plain = results
    for found, expected in zip(with_bad, without, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any(not np.array_equal(one, other) for one, other in zip(plain, without, strict=True))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others trace an optimizer once")
def test_an_optimizer_that_counts_in_python_is_called_at_each_step():
    results = [trained(adamw(Counting), compiled=compiled) for compiled in (True, False)]
    check(results[0][0], results[1][0])
    assert not np.array_equal(results[1][0][0], trained(adamw(), compiled=False)[0][0])


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others trace the weights once")
def test_freezing_one_block_in_place_of_another_of_the_same_shapes(monkeypatch, capsys):
    """The numbers and shapes of the weights are the same, and the step is another one."""
    from kerasllm.backend.torch import compiler

    # The recorded programs are run as they are, which takes a fraction of the time.
    monkeypatch.setattr(compiler, "by_inductor", lambda graph, inputs: graph)
    results = []
    for compiled in (True, False):
        model = GPTCausalLM(GPTConfig(dropout=0.1, **SHAPE | {"num_layers": 2}), seed=3)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, jit_compile=compiled, run_eagerly=not compiled)
        optimizer.build(model.trainable_variables)
        losses = []
        for frozen in model.backbone.blocks:
            frozen.trainable = False
            batches = Batches(left_out=range(2, STEPS))
            losses += model.fit(batches, shuffle=False, verbose=0).history["loss"]
            frozen.trainable = True
        results.append(([keras.ops.convert_to_numpy(weight.value) for weight in model.weights], losses))
    assert "without compilation" not in capsys.readouterr().err
    (found, losses), (expected, expected_losses) = results
    check(found, expected)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
