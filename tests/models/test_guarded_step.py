"""A batch whose loss or gradient is not finite leaves no trace, and one that is fine is not touched."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import backend
from kerasllm.layers.dropout import dropout
from kerasllm.models.base import LanguageModel

FINE, NAN_LOSS, INFINITE_LOSS, INFINITE_GRADIENT, NO_GRADIENT = range(5)
FAULTS = [NAN_LOSS, INFINITE_LOSS, INFINITE_GRADIENT]


@dataclass(frozen=True)
class TinyConfig:
    rate: float = 0.3


class Tiny(LanguageModel):
    config_class = TinyConfig

    def __init__(self, rate: float) -> None:
        super().__init__(TinyConfig(rate), seed=0)
        self.inner, self.outer = keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)
        self.inner.build((None, 4))
        self.outer.build((None, 8))
        self.seed_generator = keras.random.SeedGenerator(3)
        self.built = True
        random = np.random.default_rng(5)
        self.set_weights([random.normal(size=w.shape).astype("float32") * 0.3 for w in self.weights])

    def call(self, inputs, training=False):
        hidden = self.inner(inputs)
        if training and self.config.rate:
            hidden = dropout(hidden, self.config.rate, self.seed_generator)
        return self.outer(hidden)


def loss(labels, outputs):
    """Squared error; the second column of the labels names what goes wrong."""
    wanted, fault = labels[:, :1], labels[:, 1:]
    bad = fault == INFINITE_GRADIENT
    steep = ops.sqrt(ops.where(bad, outputs - ops.stop_gradient(outputs), 1.0))  # at 0: infinitely steep
    errors = ops.square(outputs - wanted) + ops.where(bad, steep, 0.0)
    errors = errors * ops.where(fault == NAN_LOSS, float("nan"), 1.0)
    errors = ops.where(fault == INFINITE_LOSS, ops.stop_gradient(errors) + float("inf"), errors)
    return ops.sum(ops.where(fault == NO_GRADIENT, errors * 0, errors))


class Batches(keras.utils.PyDataset):
    """Each batch a number and a fault of its third row; `NO_GRADIENT` of all."""

    def __init__(self, batches) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        number, fault = self.batches[index]
        inputs = np.random.default_rng([3, number]).normal(size=(6, 4)).astype("float32")
        labels = np.column_stack([inputs.sum(axis=1), np.zeros(6)]).astype("float32")
        labels[slice(None) if fault == NO_GRADIENT else 2, 1] = fault
        return inputs, labels


class Norms(keras.callbacks.Callback):
    """The `gradient_norm` of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = []

    def on_train_batch_end(self, batch, logs=None):
        self.norms.append(float(logs["gradient_norm"]) if "gradient_norm" in logs else None)


def train(batches, *, guarded=True, rate=0.3, optimizer="sgd", compiled=True, **settings):
    """What training changes but for the count of steps; the norms; the count."""
    model = Tiny(rate)
    if optimizer == "sgd":  # goes by nothing but the gradients; AdamW by the number of the step too
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, **settings)
    else:
        optimizer = keras.optimizers.AdamW(0.01, **settings)
    model.compile(optimizer, loss, jit_compile=backend.jit_compile if compiled else False)
    model.catch_non_finite = guarded
    norms = Norms()
    model.fit(Batches(batches), epochs=1, shuffle=False, verbose=0, callbacks=[norms])
    changed = [*model.variables, *optimizer.variables]
    arrays = [np.array(ops.convert_to_numpy(v)) for v in changed if v is not optimizer._iterations]
    return arrays, norms.norms, int(ops.convert_to_numpy(optimizer._iterations))


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "settings",
    [{"global_clipnorm": 1.0}, {"global_clipnorm": 0.1, "gradient_accumulation_steps": 2}],
    ids=["clipped", "accumulated"],
)
def test_finite_steps_are_not_changed_by_a_bit(without_xla, settings):
    """Of the arithmetic; XLA rounds as it fuses, and fuses a guarded step in its own way."""
    batches = [(number, FINE) for number in range(6)]
    settings = settings | {"compiled": False}
    plain, none, _ = train(batches, guarded=False, optimizer="adamw", **settings)
    guarded, norms, steps = train(batches, optimizer="adamw", **settings)
    assert same(plain, guarded) and steps == 6
    assert none == [None] * 6 and all(0 < norm < 100 for norm in norms)
    assert same(plain, train(batches, guarded=False, rate=0.0, optimizer="adamw", **settings)[0]) is False


def test_a_bad_batch_is_as_if_it_had_not_been(uncompiled):
    """Weights, momentum, dropout's counters; only the steps are counted on."""
    without, _, _ = train([(0, FINE), (2, FINE)])
    for fault in FAULTS:
        left_out, norms, steps = train([(0, FINE), (1, fault), (2, FINE)])
        assert same(left_out, without) and steps == 3, fault
        assert [bool(np.isfinite(norm)) for norm in norms] == [True, False, True]
    assert not same(train([(0, FINE), (1, NAN_LOSS), (2, FINE)], guarded=False)[0], without)


def test_a_bad_batch_compiled():
    """As above, through the compiler."""
    without, _, _ = train([(0, FINE), (2, FINE)])
    assert same(train([(0, FINE), (1, INFINITE_LOSS), (2, FINE)])[0], without)


@pytest.mark.parametrize("place", [0, 1])
def test_within_an_accumulated_step_it_counts_as_one_without_gradient(uncompiled, place):
    """Also where it is the one that ends the step."""
    faults = [FINE, FINE]
    settings = {"rate": 0.0, "gradient_accumulation_steps": 2}

    def run(fault):
        faults[place] = fault
        return train(
            [(0, FINE), (1, FINE), *zip((2, 3), faults, strict=True), (4, FINE), (5, FINE)], **settings
        )

    expected, _, _ = run(NO_GRADIENT)
    for fault in FAULTS:
        found, norms, steps = run(fault)
        assert same(found, expected) and steps == 6, fault
        assert [not np.isfinite(norm) for norm in norms] == [i == 2 + place for i in range(6)]


def test_a_loss_scale_keeps_its_own_guard(uncompiled):
    """Overflow is its daily business."""
    model = Tiny(0.0)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), loss)
    model.catch_non_finite = True
    norms = Norms()
    before = [np.array(w) for w in model.get_weights()]
    model.fit(Batches([(0, NAN_LOSS)]), verbose=0, callbacks=[norms])
    assert norms.norms == [None] and same(model.get_weights(), before)
