"""The learning rate of every step, by hand."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.errors import InputError
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import CosineWarmupDecay, LinearWarmupDecay, warmup_steps


def rates(schedule, count):
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(count)]


def test_values_by_hand():
    """Four steps up, six down; zero comes one step after the last."""
    schedule = LinearWarmupDecay(0.6, steps=10, warmup=4)
    expected = [0.15, 0.3, 0.45, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    np.testing.assert_allclose(rates(schedule, 12), expected, atol=1e-7)


def test_without_warmup():
    np.testing.assert_allclose(
        rates(LinearWarmupDecay(1.0, steps=4), 5), [1.0, 0.75, 0.5, 0.25, 0.0], atol=1e-7
    )


def test_one_step_only():
    assert rates(LinearWarmupDecay(0.1, steps=1, warmup=warmup_steps(0.1, 1)), 1) == [pytest.approx(0.1)]


def test_accumulation_counts_optimizer_steps():
    """Keras hands over the number of batches: each step's rate comes K times."""
    plain = rates(LinearWarmupDecay(0.6, steps=10, warmup=4), 10)
    accumulated = rates(LinearWarmupDecay(0.6, steps=10, warmup=4, gradient_accumulation=3), 30)
    np.testing.assert_allclose(accumulated, np.repeat(plain, 3))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_what_the_optimizer_really_uses(accumulation):
    """A gradient of one under Adam moves a weight by the learning rate: the moves are the schedule."""
    schedule = LinearWarmupDecay(0.5, steps=5, warmup=2, gradient_accumulation=accumulation)
    optimizer = adamw(
        schedule,
        weight_decay=0.0,
        beta_1=0.0,
        beta_2=0.0,  # no moments: the bias corrections of float32 would cost five digits
        clip_norm=None,
        epsilon=1e-12,
        gradient_accumulation=accumulation,
    )
    variable = keras.Variable(np.zeros(3, "float32"), name="kernel")
    optimizer.build([variable])
    positions = [0.0]
    for _ in range(5):
        for _ in range(accumulation):
            optimizer.apply([keras.ops.ones(3)], [variable])
        positions.append(float(keras.ops.convert_to_numpy(variable.value)[0]))
    np.testing.assert_allclose(-np.diff(positions), [0.25, 0.5, 0.5, 1 / 3, 1 / 6], rtol=1e-5)


def test_config_round_trip():
    schedule = LinearWarmupDecay(0.6, steps=10, warmup=4, gradient_accumulation=2)
    again = LinearWarmupDecay.from_config(schedule.get_config())
    assert rates(again, 22) == rates(schedule, 22)
    stored = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(stored, LinearWarmupDecay)


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [(0, 10, 0), (0.1, 100, 10), (0.25, 10, 2), (7, 10, 7), (0.1, 1, 0), (3.0, 10, 3), (5, 1, 0)],
)
def test_warmup_as_share_or_number(warmup, steps, expected):
    assert warmup_steps(warmup, steps) == expected


@pytest.mark.parametrize(
    ("warmup", "steps"), [(-1, 10), (2.5, 10), (10, 10), (11, 10), (0.99, 10), (-0.1, 10)]
)
def test_impossible_warmup(warmup, steps):
    with pytest.raises(InputError, match="warmup"):
        warmup_steps(warmup, steps)


def test_the_cosine_by_hand():
    schedule = CosineWarmupDecay(1e-3, minimum=1e-4, steps=2000, warmup=100, gradient_accumulation=2)

    def by_hand(step):
        if step < 100:
            return 1e-3 * (step + 1) / 100
        return 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4

    for step in (0, 50, 99, 100, 101, 1050, 1999):
        for part in (0, 1):
            found = float(ops.convert_to_numpy(schedule(2 * step + part)))
            assert found == pytest.approx(by_hand(step), rel=1e-4), step
    assert float(ops.convert_to_numpy(schedule(9999))) == pytest.approx(1e-4)
    again = CosineWarmupDecay.from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()
