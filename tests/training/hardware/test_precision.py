"""The precision asked for is set; "auto" measures and says what it takes."""

import keras
import numpy as np
import pytest

from kerasllm.training.hardware import precision
from kerasllm.training.hardware.precision import choose_precision


@pytest.fixture(autouse=True)
def policy():
    """The policy is global: it is put back."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def make_model():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


BATCH = (np.ones((4, 6), "float32"), np.ones((4, 1), "float32"))


@pytest.mark.parametrize("asked", ["float32", "mixed_bfloat16"])
def test_what_is_asked_for_is_set(asked):
    def never():
        raise AssertionError("nothing is measured")

    assert choose_precision(asked, never, BATCH) == asked
    assert keras.config.dtype_policy().name == asked
    assert keras.layers.Dense(1).compute_dtype == asked.removeprefix("mixed_")


def test_tf32_is_for_the_products_of_a_run_that_asks_for_it(capsys):
    assert choose_precision("tf32", make_model, BATCH) == "tf32"
    assert keras.config.dtype_policy().name == "float32" and rounds_factors()
    assert "no device here has TF32" in capsys.readouterr().err
    left, right = np.random.default_rng(0).normal(size=(2, 64, 64)).astype("float32")
    found = keras.ops.convert_to_numpy(keras.ops.matmul(left, right))
    np.testing.assert_allclose(
        found, left.astype("float64") @ right, atol=1e-4
    )  # on a CPU nothing is rounded
    choose_precision("float32", make_model, BATCH)
    assert not rounds_factors()


def rounds_factors():
    if keras.backend.backend() == "torch":
        import torch

        return torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    if keras.backend.backend() == "jax":
        import jax

        return jax.config.jax_default_matmul_precision == "tensorfloat32"
    import tensorflow as tf

    return tf.config.experimental.tensor_float_32_execution_enabled()


def test_auto_measures_both_and_says_so(capsys):
    made = []

    def make():
        made.append(keras.config.dtype_policy().name)
        return make_model()

    chosen = choose_precision("auto", make, BATCH, steps=2)
    assert made == ["float32", "mixed_bfloat16"]
    assert chosen in made and keras.config.dtype_policy().name == chosen
    shown = capsys.readouterr().err
    assert f"precision: {chosen}" in shown and all(f"{name} " in shown for name in made)


@pytest.mark.parametrize(("slow", "expected"), [("float32", "mixed_bfloat16"), ("mixed_bfloat16", "float32")])
def test_auto_takes_the_faster(monkeypatch, slow, expected):
    """By a clock of the test's own: the first step, which compiles, does not count."""
    now = [0.0]

    class Model:
        def __init__(self):
            self.step = 0

        def train_on_batch(self, *batch):
            self.step += 1
            now[0] += 100.0 if self.step == 1 and keras.config.dtype_policy().name == expected else 1.0
            now[0] += keras.config.dtype_policy().name == slow

    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    assert choose_precision("auto", Model, BATCH) == expected
    assert keras.config.dtype_policy().name == expected
