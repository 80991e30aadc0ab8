"""What AdamW decays, and how it clips, on one step that can be computed by hand."""

import keras
import numpy as np
import pytest

from kerasllm import BertConfig, BertPretraining
from kerasllm.training.optimization.optimizers import adamw


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


@pytest.fixture
def model():
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 6, "dropout": 0.0}
    model = BertPretraining(BertConfig(vocabulary_size=12, **shape), seed=0)
    for variable in model.trainable_variables:  # biases begin at 0, where decay would not be seen
        variable.assign(variable + 0.5)
    return model


def test_decay_on_kernels_and_tables_alone(model):
    """A step with gradients of zero moves only what decays: by learning rate x decay."""
    optimizer = adamw(0.1, weight_decay=0.2)
    before = {name: numpy(variable) for name, variable in model.named_variables().items()}
    variables = model.trainable_variables
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
    decayed = set()
    for name, variable in model.named_variables().items():
        after = numpy(variable)
        if np.array_equal(after, before[name]):
            continue
        decayed.add(name)
        np.testing.assert_allclose(after, before[name] * (1 - 0.1 * 0.2), rtol=1e-6)
    matrices = {name for name, value in before.items() if value.ndim == 2}
    assert decayed == matrices
    assert {"embeddings/token", "block_0/query_key_value_kernel", "masked_lm_head/kernel"} <= decayed


@pytest.mark.parametrize(
    ("clip_norm", "expected"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0]), (None, [3.0, 4.0])]
)
def test_clipping_by_the_norm_of_all_gradients(clip_norm, expected):
    """Gradients 3 and 4 of two weights have the norm 5 together; seen in Adam's first moment."""
    optimizer = adamw(0.1, clip_norm=clip_norm, beta_1=0.0)
    variables = [keras.Variable(np.zeros(1, "float32"), name=name) for name in ("one_kernel", "other_kernel")]
    optimizer.build(variables)
    optimizer.apply([keras.ops.full((1,), 3.0), keras.ops.full((1,), 4.0)], variables)
    moments = [numpy(variable)[0] for variable in optimizer.variables if "momentum" in variable.name]
    np.testing.assert_allclose(moments, expected, rtol=1e-5)


def test_two_steps_by_hand():
    """AdamW as published: moments, bias correction, decoupled decay; a bias is not decayed."""
    rate, decay, beta_1, beta_2, epsilon = 0.01, 0.1, 0.9, 0.99, 1e-6
    optimizer = adamw(rate, weight_decay=decay, beta_1=beta_1, beta_2=beta_2, clip_norm=None)
    start = np.array([0.7, -0.3], "float32")
    variables = [keras.Variable(start, name="kernel"), keras.Variable(start, name="bias")]
    optimizer.build(variables)
    expected = [start.astype("float64"), start.astype("float64")]
    first = second = np.zeros(2)
    for step, gradient in enumerate([np.array([0.2, -0.5]), np.array([-0.1, 0.4])], start=1):
        tensors = [keras.ops.convert_to_tensor(gradient.astype("float32")) for _ in variables]
        optimizer.apply(tensors, variables)
        first = beta_1 * first + (1 - beta_1) * gradient
        second = beta_2 * second + (1 - beta_2) * gradient**2
        corrected = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        for index, factor in enumerate((decay, 0.0)):
            expected[index] = expected[index] * (1 - rate * factor)
            expected[index] = expected[index] - corrected * first / (np.sqrt(second) + epsilon)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(numpy(variable), value, rtol=1e-5)


def test_accumulated_gradients_are_averaged():
    """K batches, one update with the mean of their gradients; nothing moves before the last."""
    optimizer = adamw(0.1, clip_norm=None, beta_1=0.0, weight_decay=0.0, gradient_accumulation=2)
    variable = keras.Variable(np.zeros(1, "float32"), name="kernel")
    optimizer.build([variable])
    optimizer.apply([keras.ops.full((1,), 1.0)], [variable])
    assert numpy(variable)[0] == 0
    optimizer.apply([keras.ops.full((1,), 3.0)], [variable])
    (moment,) = [numpy(value) for value in optimizer.variables if "momentum" in value.name]
    assert moment[0] == pytest.approx(2.0) and numpy(variable)[0] < 0
