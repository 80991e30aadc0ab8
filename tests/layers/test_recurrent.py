"""Recurrent layers against their equations in NumPy, and their gradients against differences."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.layers.recurrent import LockedDropout, RecurrentLayer

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
ROWS, LENGTH, WIDTH, UNITS = 3, 5, 4, 3


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def step(cell, inputs, state, weights):
    """The state after a step, by the equations in the documentation of torch.nn."""
    kernel, recurrent_kernel, bias, recurrent_bias = weights
    own = np.split(inputs @ kernel.T + bias, len(bias) // UNITS)
    other = np.split(recurrent_kernel @ state[0] + recurrent_bias, len(bias) // UNITS)
    if cell == "lstm":
        enter, forget, new, output = (left + right for left, right in zip(own, other, strict=True))
        memory = sigmoid(forget) * state[1] + sigmoid(enter) * np.tanh(new)
        return [sigmoid(output) * np.tanh(memory), memory]
    if cell == "gru":
        reset, update = sigmoid(own[0] + other[0]), sigmoid(own[1] + other[1])
        return [(1 - update) * np.tanh(own[2] + reset * other[2]) + update * state[0]]
    total = own[0] + other[0]
    return [np.tanh(total) if cell == "rnn_tanh" else np.maximum(total, 0)]


def run(cell, inputs, mask, weights, state, reverse):
    """Outputs (length, units) and the last state of one row."""
    outputs = np.zeros((len(inputs), UNITS))
    for place in reversed(range(len(inputs))) if reverse else range(len(inputs)):
        state = step(cell, inputs[place], state, weights) if mask[place] else state
        outputs[place] = state[0]
    return outputs, state


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])  # padding behind, and before
    return random.normal(size=(ROWS, LENGTH, WIDTH)).astype("float32"), mask


def made(cell, **settings):
    layer = RecurrentLayer(cell=cell, hidden_dim=UNITS, seed=3, **settings)
    layer.build((None, None, WIDTH))
    return layer


@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_with_padding_and_a_first_state_equal_the_equations(cell, data):
    inputs, mask = data
    layer = made(cell, bidirectional=True)
    first = [
        [np.full((ROWS, UNITS), 0.1 * (1 + k), "float32") for k in range(len(own))] for own in layer.begin(1)
    ]
    outputs, last = layer(inputs, first, mask)
    outputs, last = keras.tree.map_structure(ops.convert_to_numpy, (outputs, last))
    for side, weights in enumerate(layer.directions):
        weights = [ops.convert_to_numpy(weight).astype("float64") for weight in weights]
        for row in range(ROWS):
            begin = [part[row] for part in first[side]]
            expected, state = run(cell, inputs[row], mask[row], weights, begin, reverse=side == 1)
            found = outputs[row, :, side * UNITS : (side + 1) * UNITS]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            for ours, theirs in zip(last[side], state, strict=True):
                np.testing.assert_allclose(ours[row], theirs, atol=1e-6)
    plain, _ = layer(inputs)
    whole, _ = layer(inputs, None, np.ones_like(mask))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (plain, whole)), atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_equal_differences(cell, data):
    """By a step of gradient descent of rate 1: what each weight loses is its gradient."""
    inputs, mask = data
    layer = made(cell, bidirectional=True)
    below = keras.layers.Dense(WIDTH)  # whose gradient comes through the inputs
    below.build((None, None, WIDTH))
    below.kernel.assign(np.random.default_rng(4).normal(size=(WIDTH, WIDTH)))
    target = np.random.default_rng(1).normal(size=(ROWS, LENGTH, 2 * UNITS)).astype("float32")

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [below, layer]

        def call(self, values):
            outputs, last = layer(below(values), None, mask)
            return outputs + sum(ops.mean(part) for own in last for part in own)

    model = Model()
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    loss = lambda: float(np.mean((ops.convert_to_numpy(model(inputs)) - target) ** 2, dtype="float64"))  # noqa: E731
    variables = model.trainable_variables
    before = [ops.convert_to_numpy(variable).copy() for variable in variables]
    model.train_on_batch(inputs, target)
    gradients = [
        old - ops.convert_to_numpy(variable) for variable, old in zip(variables, before, strict=True)
    ]
    random = np.random.default_rng(2)
    for variable, value, gradient in zip(variables, before, gradients, strict=True):
        for other, own in zip(variables, before, strict=True):
            other.assign(own)
        direction = random.choice([-1.0, 1.0], value.shape).astype("float32")
        found = []
        for sign in (1, -1):
            variable.assign(value + sign * 5e-4 * direction)
            found.append(loss())
        assert (found[0] - found[1]) / 1e-3 == pytest.approx(np.sum(gradient * direction), abs=1e-3, rel=1e-2)


def test_locked_dropout_drops_the_same_units_at_every_step():
    layer = LockedDropout(rate=0.5, seed=1)
    outputs = ops.convert_to_numpy(layer(np.ones((4, 6, 32), "float32"), training=True))
    assert set(np.unique(outputs)) == {0.0, 2.0}
    assert (outputs == outputs[:, :1]).all() and (outputs[0] != outputs[1]).any()
    assert (ops.convert_to_numpy(layer(np.ones((4, 6, 32), "float32"))) == 1).all()


def test_dropped_weights_change_training_alone(data):
    inputs, _ = data
    layer = made("lstm", weight_drop=0.5)
    plain, again, other = (
        ops.convert_to_numpy(layer(inputs, training=training)[0]) for training in (False, False, True)
    )
    assert (plain == again).all() and np.abs(plain - other).max() > 1e-3
    np.testing.assert_allclose(plain[:, 0], other[:, 0], atol=1e-6)  # the first step has no state to multiply


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell is 'elman', it must be one of lstm, gru, rnn_tanh, rnn_relu"):
        RecurrentLayer(cell="elman", hidden_dim=2)


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_is_let_go_with_its_gradient(cell, data):
    """What the backward pass is given must not know the state that it returns: each step of a training would stay."""
    inputs, mask = data
    layer = made(cell)
    outputs, last = layer(inputs, None, mask)
    known = [weakref.ref(part) for part in (outputs, *keras.tree.flatten(last))]
    del outputs, last
    gc.collect()
    assert [part() for part in known] == [None] * len(known)
