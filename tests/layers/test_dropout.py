"""The masks of dropout: rate, independence, and the very same bits on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.layers.dropout import dropout

# Computed once with Python integers (see `reference`), which know no backend.
MODULUS = 2**32


class Counter:
    """A seed generator at a given call."""

    def __init__(self, seed_and_call):
        self.state = np.array(seed_and_call, "uint32")

    def next(self):
        return ops.convert_to_tensor(self.state)


def keep_mask(shape, rate, seed_and_call):
    """Where dropout leaves something."""
    return ops.convert_to_numpy(dropout(np.ones(shape, "float32"), rate, Counter(seed_and_call))) != 0


def reference(size: int, rate: float, seed: int, call: int) -> list[bool]:
    def mix(value):
        value ^= value >> 16
        value = value * 0x7FEB352D % MODULUS
        value ^= value >> 15
        value = value * 0x846CA68B % MODULUS
        return value ^ (value >> 16)

    key = mix((mix(seed % MODULUS) + call * 0x9E3779B9) % MODULUS)
    values = (mix((mix((index + key) % MODULUS) + key) % MODULUS) for index in range(size))
    return [(value >> 1) >= int(rate * 2**31) for value in values]


@pytest.mark.parametrize("seed,call", [(0, 0), (1, 0), (123456789, 7), (2**31 - 2, 100_000)])
def test_masks_are_those_of_integer_arithmetic_on_every_backend(seed, call):
    assert keep_mask((5, 13), 0.3, [seed, call]).ravel().tolist() == reference(65, 0.3, seed, call)


def test_rate_scale_and_no_two_calls_alike():
    generator = keras.random.SeedGenerator(3)
    inputs = np.ones((100, 1000), "float32")
    first = ops.convert_to_numpy(dropout(inputs, 0.1, generator))
    second = ops.convert_to_numpy(dropout(inputs, 0.1, generator))
    for output in (first, second):
        assert set(np.unique(output)) == {np.float32(0), np.float32(1) / np.float32(0.9)}
        assert abs((output == 0).mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 1e5)
    together = ((first == 0) & (second == 0)).mean()
    assert abs(together - 0.01) < 5 * np.sqrt(0.01 * 0.99 / 1e5)


def test_neighbours_are_independent():
    zeros = ~keep_mask((1000, 1000), 0.5, [1, 2])
    for lag in (1, 2, 64, 1000):
        flat = zeros.ravel()
        agreement = (flat[lag:] == flat[:-lag]).mean()
        assert abs(agreement - 0.5) < 5 * 0.5 / 1000


def test_rate_zero_changes_nothing_and_draws_nothing():
    generator = keras.random.SeedGenerator(3)
    before = ops.convert_to_numpy(generator.state.value)
    inputs = np.ones((2, 2), "float32")
    assert dropout(inputs, 0.0, generator) is inputs
    np.testing.assert_array_equal(before, ops.convert_to_numpy(generator.state.value))
