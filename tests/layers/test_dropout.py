"""The masks of dropout: rate, independence, and the very same bits on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.backend import hashing
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


def reference(size: int, rate: float, seed: int, call: int, first: int = 0) -> list[bool]:
    def mix(value):
        value ^= value >> 16
        value = value * 0x7FEB352D % MODULUS
        value ^= value >> 15
        value = value * 0x846CA68B % MODULUS
        return value ^ (value >> 16)

    def draw(number):
        high, low = divmod(number, 2**31)
        wide = mix((key + high * 0x9E3779B9) % MODULUS) if high else key
        return mix((mix((low + wide) % MODULUS) + wide) % MODULUS)

    key = mix((mix(seed % MODULUS) + call * 0x9E3779B9) % MODULUS)
    values = map(draw, range(first, first + size))
    return [(value >> 1) >= int(rate * 2**31) for value in values]


@pytest.mark.parametrize("seed,call", [(0, 0), (1, 0), (123456789, 7), (2**31 - 2, 100_000)])
def test_masks_are_those_of_integer_arithmetic_on_every_backend(seed, call):
    assert keep_mask((5, 13), 0.3, [seed, call]).ravel().tolist() == reference(65, 0.3, seed, call)


@pytest.mark.parametrize("part", [2**31 // 65, 2**31 // 65 + 1, 2**32 // 65, 10**8, 2**40])
def test_elements_beyond_what_one_word_numbers_have_masks_of_their_own(part):
    try:
        hashing.number_rows_from(part)
        found = ops.convert_to_numpy(hashing.draws((5, 13), np.array([3, 4], "uint32")))
    finally:
        hashing.number_rows_from(0)
    kept = found >= hashing.least_kept(0.3)
    assert kept.ravel().tolist() == reference(65, 0.3, 3, 4, first=part * 65)


def test_a_tensor_of_more_elements_than_one_word_numbers_is_numbered_by_its_rows(monkeypatch):
    monkeypatch.setattr(hashing, "_NUMBERS", 2**5)  # rows of at most 16: the second axis is among them
    starts = []
    monkeypatch.setattr(
        hashing, "_mix_rows", lambda key, rows, width: starts.append((rows, width)) or ops.zeros(60, "int32")
    )
    hashing.draws((3, 4, 5), np.array([0, 0], "uint32"))
    [(rows, width)] = starts
    assert width == 5 and rows.tolist() == list(range(0, 60, 5))


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
