"""The gradient of the tables, seen in what Adam makes of it."""

import keras
import numpy as np
import pytest

from kerasllm.layers import TransformerEmbeddings, TransformerEncoderBlock

IDS = np.array([[1, 1, 3], [1, 2, 3]], "int32")
POSITIONS = np.array([[0, 0, 2], [0, 1, 2]], "int32")


def mean_of_the_sum(labels, outputs):
    return keras.ops.sum(outputs, axis=(1, 2))


@pytest.mark.usefixtures("uncompiled")
def test_the_rows_of_a_token_that_occurs_twice_are_summed_before_they_are_squared():
    """The loss is half the sum of all outputs: each row's gradient is half the number of its uses."""
    shape = {"vocabulary_size": 5, "max_sequence_length": 4, "hidden_dim": 2, "num_segments": 0}
    layer = TransformerEmbeddings(**shape, normalize=False, dropout=0.0, seed=0)
    inputs = [keras.Input((3,), dtype="int32") for _ in range(2)]
    model = keras.Model(inputs, layer(inputs[0], position_ids=inputs[1]))
    model.compile(keras.optimizers.Adam(0.1, beta_1=0.0, beta_2=0.5), mean_of_the_sum)
    model.train_on_batch([IDS, POSITIONS], np.zeros(2, "float32"))
    for name, ids, rows in (("token", IDS, 5), ("position", POSITIONS, 4)):
        gradient = np.bincount(ids.ravel(), minlength=rows) / 2
        (velocity,) = [
            keras.ops.convert_to_numpy(variable)
            for variable in model.optimizer.variables
            if "velocity" in variable.path and variable.shape[0] == rows
        ]
        np.testing.assert_allclose(
            velocity, 0.5 * np.tile(gradient[:, None] ** 2, 2), rtol=1e-6, err_msg=name
        )


@pytest.mark.usefixtures("uncompiled")
def test_lengths_need_not_be_known_in_a_functional_model():
    """And a sequence that is too long is still refused when it comes."""
    tokens, mask = (keras.Input((None,), dtype="int32") for _ in range(2))
    layer = TransformerEmbeddings(vocabulary_size=5, max_sequence_length=6, hidden_dim=4, seed=0)
    block = TransformerEncoderBlock(num_heads=2, intermediate_dim=8, seed=0)
    model = keras.Model([tokens, mask], block(layer(tokens), mask))
    assert model.output_shape == (None, None, 4)
    for length in (3, 6):
        ids = np.ones((2, length), "int32")
        found = model([ids, ids])
        expected = block(layer(ids), ids)
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (found, expected)), atol=1e-6)
    with pytest.raises(ValueError, match="7 tokens long, the model has 6 positions"):
        model([np.ones((2, 7), "int32")] * 2)
