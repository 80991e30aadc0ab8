"""Rotary positions against complex multiplication."""

import keras
import numpy as np
from keras import ops

from kerasllm.layers.rotary import rotary_tables, rotate


def test_rotation_is_a_complex_product():
    heads = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    positions = np.array([[0, 1, 2, 3, 4], [7, 7, 0, 100, 1000]])
    pairs = heads[..., :4].astype("float64") + 1j * heads[..., 4:]
    angles = positions[:, :, None] * 500.0 ** (-np.arange(4) / 4)
    turned = pairs * np.exp(1j * angles)[:, None]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    found = rotate(ops.convert_to_tensor(heads), rotary_tables(ops.convert_to_tensor(positions), 8, 500.0))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=2e-4)


def test_angles_are_float32_in_any_precision():
    heads = ops.ones((1, 1, 2, 4), dtype="bfloat16")
    tables = rotary_tables(ops.convert_to_tensor(np.array([[300, 301]])), 4, 10_000.0)
    turned = ops.convert_to_numpy(ops.cast(rotate(heads, tables), "float32"))
    assert {keras.backend.standardize_dtype(table.dtype) for table in tables.tables} == {"float32"}
    assert np.abs(turned[..., 0, :] - turned[..., 1, :]).max() > 0.1  # in bfloat16, 300 and 301 are the same
