"""Averages of weights against the means of those that were there, also over an interruption."""

import keras
import numpy as np
import pytest

from kerasllm.errors import InputError
from kerasllm.training.callbacks.averaging import WeightAverage
from kerasllm.training.callbacks.checkpoint import Checkpoint, restore
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.fit import averaging_interval
from kerasllm.training.optimization.optimizers import adamw


class Weights(StepCallback):
    """Remembers the weights after each step; stops after one of them."""

    def __init__(self, last: int = 0, **options) -> None:
        super().__init__(**options)
        self.last, self.by_step = last, {}

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        self.by_step[step] = [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.trainable_variables]
        self.trainer.stop_training = step == self.last


def weights(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def average(**options) -> WeightAverage:
    return WeightAverage(3, interval=2, total_steps=8, **options)


def test_the_mean_of_the_last_steps_also_when_resumed(small, tmp_path):
    seen, whole = Weights(), small.build()
    small.train(whole, 0, 8, [seen, average()])
    for found, *parts in zip(weights(whole), *(seen.by_step[step] for step in (4, 6, 8)), strict=True):
        np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-6)

    first, callback = small.build(), average()
    small.train(first, 0, 8, [Weights(last=5), callback, Checkpoint(tmp_path, steps=5, callbacks=[callback])])
    np.testing.assert_array_equal(weights(first)[0], seen.by_step[5][0])  # interrupted: not the mean
    second, callback = small.build(), average(start_step=5)
    saving = Checkpoint(tmp_path, callbacks=[callback], restored=restore(second, tmp_path))
    small.train(second, 5, 8, [callback, saving])
    for found, expected in zip(weights(second), weights(whole), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_training_that_became_longer(small, tmp_path):
    """Before averaging has begun it may; afterwards some of the steps are past."""
    model, callback = small.build(), average()
    small.train(model, 0, 8, [Weights(last=5), callback, Checkpoint(tmp_path, steps=1, callbacks=[callback])])
    restored = restore(model, tmp_path)
    longer = WeightAverage(3, interval=2, total_steps=12, start_step=5)
    Checkpoint(tmp_path, callbacks=[longer], restored=restored)
    longer = WeightAverage(3, interval=2, total_steps=9, start_step=5)
    with pytest.raises(InputError, match=r"average the steps \[4, 6, 8\]"):
        Checkpoint(tmp_path, callbacks=[longer], restored=restored)


def test_an_exponential_average(small):
    """By Keras' optimizer, whose weights `fit` ends with."""
    seen, model = Weights(), small.build()
    model.compile(optimizer=adamw(0.01, ema=0.7), loss="mse")
    small.train(model, 0, 4, [seen])
    expected = seen.by_step[1]
    for step in (2, 3, 4):
        pairs = zip(expected, seen.by_step[step], strict=True)
        expected = [0.7 * before + 0.3 * new for before, new in pairs]
    for found, some in zip(weights(model), expected, strict=True):
        np.testing.assert_allclose(found, some, rtol=1e-5, atol=1e-6)


def test_distance_of_the_averaged_steps():
    assert averaging_interval(10, 3000, None) == 30
    assert averaging_interval(10, 3000, 200) == 200
    with pytest.raises(InputError, match="average at most 8"):
        averaging_interval(10, 3000, 400)
