"""The largest batch that fits is found, and nothing is measured on the way that would not fit."""

import itertools

import keras
import numpy as np
import pytest

from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.training.hardware import batch_size
from kerasllm.training.hardware.batch_size import (
    FREE,
    GIB,
    Memory,
    largest_batch,
    memory_of_step,
    usable_memory,
)

MIB = 2**20


def search(peak, usable, *, first=1, most=10**6, rest=50 * MIB):
    """The choice, and the sizes that were measured, of steps whose peak is known."""
    measured = []

    def measure(size):
        measured.append(size)
        found = peak(size)
        return None if found is None else Memory(rest, int(found))

    return largest_batch("batch_size", measure, usable, first=first, most=most), measured


@pytest.mark.parametrize(
    ("row", "fixed", "usable"), itertools.product([0.01, 1, 70], [60, 900], [1000, 20_000, 400_000])
)
def test_the_largest_power_of_two_that_fits(row, fixed, usable):
    found, measured = search(
        lambda size: (fixed + row * size) * MIB, usable * MIB, rest=int(0.9 * fixed * MIB)
    )
    most = (usable - fixed) / row
    best = 2 ** int(np.log2(most)) if most < 10**6 else 10**6
    # Where little more than what comes with any batch is free, the last doubling may not be dared.
    assert found.size == best or (found.size == best / 2 and fixed > 0.8 * usable)
    assert all(
        fixed + row * size <= usable / (1 - FREE) for size in measured
    )  # else it would be killed on a CPU
    assert len(measured) <= 14
    assert found.recorded["peak_gib"][found.size] == round((fixed + row * found.size) / 1024, 2)


@pytest.mark.parametrize("hidden", [0, 150, 400])
def test_steps_that_take_more_than_the_line_says(hidden):
    """Of the pairs of a batch, say, whose similarities grow with its square; something else may hide the first rows."""
    usable = 4000

    def peak(size):
        return max(hidden, 100 + size + size**2 / 20_000)

    found, measured = search(lambda size: peak(size) * MIB, usable * MIB)
    assert found.size == 2048
    assert all(peak(size) <= usable for size in measured)


def test_a_device_that_runs_out_of_memory(capsys):
    found, measured = search(lambda size: None if size > 300 else (100 + size) * MIB, 2000 * MIB)
    assert found.size == 256 and 512 in measured
    assert found.peaks[512] is None and found.recorded["peak_gib"][512] is None
    assert "512: out of memory" in capsys.readouterr().err


def test_no_more_than_the_data(capsys):
    found, measured = search(lambda size: (100 + size) * MIB, 10_000 * MIB, most=37)
    assert found.size == 37 and 37 in measured
    shown = capsys.readouterr().err
    assert "--batch_size 37, the whole data set" in shown
    assert "learning rate and the steps or epochs stay as given" in shown


def test_multiples_of_what_a_mesh_divides():
    found, measured = search(lambda size: (100 + size) * MIB, 1000 * MIB, first=6, most=6000)
    assert found.size == 768 and all(size % 6 == 0 for size in measured)


@pytest.mark.parametrize("peak", [None, 600 * MIB])
def test_where_the_smallest_does_not_fit(peak):
    with pytest.raises(InputError, match=r"--batch_size auto: a step of 1 takes .* GiB may be used"):
        search(lambda size: peak, 500 * MIB)


def test_what_may_be_used(monkeypatch):
    monkeypatch.setattr(batch_size.backend, "memory_limit", lambda: 10 * GIB)
    assert usable_memory(None) == usable_memory(64.0) == 9 * GIB  # there is no more than there is
    assert usable_memory(2.0) == pytest.approx(1.8 * GIB)


def make_model():
    """A batch row takes 4 MB of activations, which the backward pass needs."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2**20, activation="tanh"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    return model


def test_a_step_is_measured():
    before = backend.memory_in_use()
    few, many = (
        memory_of_step(make_model, (np.ones((rows, 1)), np.ones((rows, 1))), before) for rows in (2, 34)
    )
    # Three million weights and their gradients, for SGD keeps nothing; a few rows may find room for them that is free.
    assert many.rest == pytest.approx(before + 2 * 3 * 4 * MIB, abs=MIB)
    assert few.rest == min(many.rest, few.peak)
    assert many.peak - few.peak >= 2 * 32 * 4 * MIB  # activations and what the backward pass makes of them


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: of memory"), ValueError("else")]
)
def test_a_step_without_memory(error):
    class Model:
        def train_on_batch(self, *batch):
            raise error

    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="else"):
            memory_of_step(Model, (), 0)
    else:
        assert memory_of_step(Model, (), 0) is None
