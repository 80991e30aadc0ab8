"""Rotary positions against complex multiplication."""

import keras
import numpy as np
from keras import ops

from kerasllm.layers import TransformerDecoderBlock
from kerasllm.layers.positions import rotary_tables, rotate


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
    assert {keras.backend.standardize_dtype(table.dtype) for table in tables} == {"float32"}
    assert np.abs(turned[..., 0, :] - turned[..., 1, :]).max() > 0.1  # in bfloat16, 300 and 301 are the same


def test_a_block_with_tables_serves_in_a_functional_model(bfloat16):
    """In both precisions, and given as arrays."""
    hidden = np.random.default_rng(0).normal(size=(2, 4, 8)).astype("float32")
    positions = np.array([[0, 1, 2, 3], [7, 8, 0, 1]], "int32")
    found = []
    for precision in ("float32", "bfloat16"):
        if precision == "bfloat16":
            bfloat16()
        inputs = keras.Input((4, 8)), keras.Input((4,), dtype="int32")
        settings = {"num_heads": 2, "intermediate_dim": 16, "standard_deviation": 0.3, "seed": 1}
        block = TransformerDecoderBlock(**settings, name="block")
        outputs = block(inputs[0], rotary=rotary_tables(inputs[1], 4, 100.0))
        model = keras.Model(inputs, outputs)
        found.append(np.asarray(model.predict([hidden, positions], verbose=0), "float32"))
        assert outputs.dtype == precision
    tables = rotary_tables(ops.convert_to_tensor(positions), 4, 100.0)
    direct = ops.convert_to_numpy(ops.cast(block(hidden, None, tables), "float32"))
    np.testing.assert_allclose(found[1], direct, atol=0.05)
    np.testing.assert_allclose(found[1], found[0], atol=0.05)
    assert np.abs(found[0][1] - found[0][0]).max() > 0.1
