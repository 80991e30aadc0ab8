"""The encoder block against one made of Keras' own layers with the same weights, and in a functional model."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.layers import (
    ClassificationHead,
    KeyedTruncatedNormal,
    MaskedLanguageModelHead,
    Pooler,
    TransformerEmbeddings,
    TransformerEncoderBlock,
    attention,
)
from kerasllm.layers.attention import combined_mask


def filled(layer, *shapes):
    layer.build(*shapes)
    draw = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(draw.normal(0.1, 0.3, weight.shape))
    return layer


def keras_block(block, hidden, padding_mask):
    """The same computation with keras.layers."""
    width, heads = hidden.shape[-1], block.num_heads
    value = {weight.name: ops.convert_to_numpy(weight) for weight in block.weights}
    attention = keras.layers.MultiHeadAttention(heads, width // heads)
    attention.build(hidden.shape, hidden.shape)
    kernels = np.split(value["query_key_value_kernel"], 3, axis=-1)
    biases = np.split(value["query_key_value_bias"], 3, axis=-1)
    weights = []
    for kernel, bias in zip(kernels, biases, strict=True):
        weights += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
    attention.set_weights(
        [*weights, value["attention_output_kernel"].reshape(heads, -1, width), value["attention_output_bias"]]
    )

    def norm(inputs, name):
        layer = keras.layers.LayerNormalization(epsilon=block.layer_norm_epsilon)
        layer.build(inputs.shape)
        layer.set_weights([ops.convert_to_numpy(value[f"{name}_{kind}"]) for kind in ("scale", "bias")])
        return layer(inputs)

    attended = attention(
        hidden, hidden, attention_mask=ops.convert_to_tensor(padding_mask[:, None, :].astype(bool))
    )
    hidden = norm(hidden + attended, "attention_norm")
    value = {name: ops.convert_to_tensor(array) for name, array in value.items()}
    wide = ops.matmul(hidden, value["intermediate_kernel"]) + value["intermediate_bias"]
    wide = ops.gelu(wide, approximate=False)
    return norm(hidden + ops.matmul(wide, value["output_kernel"]) + value["output_bias"], "output_norm")


def test_block_equals_one_of_keras_layers():
    block = filled(TransformerEncoderBlock(num_heads=4, intermediate_dim=24, name="block"), (None, None, 16))
    hidden = np.random.default_rng(1).normal(size=(3, 7, 16)).astype("float32")
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
    ours = ops.convert_to_numpy(block(hidden, mask))
    theirs = ops.convert_to_numpy(keras_block(block, ops.convert_to_tensor(hidden), mask))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_padding_is_not_seen():
    block = filled(TransformerEncoderBlock(num_heads=2, intermediate_dim=8), (None, None, 8))
    hidden = np.random.default_rng(1).normal(size=(1, 6, 8)).astype("float32")
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    changed = hidden.copy()
    changed[:, 4:] += 5
    first, second = (ops.convert_to_numpy(block(value, mask))[:, :4] for value in (hidden, changed))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("settings", [{}, {"normalize_first": True}], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("kind", ["no mask", "padding", "packed"])
def test_some_positions_alone_are_those_of_all(kind, settings):
    draw = np.random.default_rng(3)
    hidden = draw.normal(size=(3, 10, 16)).astype("float32")
    positions = np.array([[0, 4, 4], [9, 1, 0], [2, 3, 7]], "int32")
    mask = None
    if kind == "padding":
        mask = (np.arange(10) < np.array([[10], [6], [8]])).astype("int32")
    if kind == "packed":
        sequences = np.array([[0] * 4 + [1] * 6, [0] * 10, [0] * 2 + [1] * 5 + [-1] * 3])
        mask = combined_mask(sequence_ids=sequences)
    block = filled(TransformerEncoderBlock(num_heads=4, intermediate_dim=24, **settings), (None, None, 16))
    masks = {"attention_mask" if kind == "packed" else "padding_mask": mask}
    every, some = block(hidden, **masks), block(hidden, **masks, query_positions=positions)
    expected = np.take_along_axis(ops.convert_to_numpy(every), positions[:, :, None], axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(some), expected, rtol=0, atol=1e-5)
    assert block.compute_output_shape((3, 10, 16), query_positions_shape=(3, 3)) == (3, 3, 16)


def test_attention_with_dropout_has_the_mean_of_attention_without(monkeypatch):
    """Dropping probabilities of attention (and nothing else) must not change the expectation."""
    rate = 0.25
    block = filled(
        TransformerEncoderBlock(num_heads=2, intermediate_dim=8, attention_dropout=rate), (None, None, 8)
    )
    seen = []
    hidden = np.random.default_rng(1).normal(size=(1, 16, 8)).astype("float32")
    repeated = np.repeat(hidden, 4000, axis=0)
    original = attention.attend

    def spy(*args, **kwargs):
        result = original(*args, **kwargs)
        seen.append(ops.convert_to_numpy(result))
        return result

    monkeypatch.setattr(attention, "attend", spy)
    block(repeated, training=True)
    block(hidden, training=False)
    dropped, plain = seen
    error = dropped.std(axis=0) / np.sqrt(len(dropped))
    assert (np.abs(dropped.mean(axis=0) - plain[0]) < 5 * error + 1e-6).all()
    assert dropped.std(axis=0).min() > 0


def test_functional_model_of_ones_own_saves_and_loads(tmp_path):
    tokens = keras.Input((12,), dtype="int32")
    embeddings = TransformerEmbeddings(vocabulary_size=50, max_sequence_length=12, hidden_dim=16, name="e")
    hidden = embeddings(tokens)
    hidden = TransformerEncoderBlock(num_heads=2, intermediate_dim=32, dropout=0.1, name="b")(hidden)
    output = ClassificationHead(num_outputs=3, name="c")(Pooler(name="p")(hidden))
    model = keras.Model(tokens, output)
    assert model.output_shape == (None, 3)
    ids = np.random.default_rng(0).integers(0, 50, (4, 12))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(ids, np.array([0, 1, 2, 0]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(model.predict(ids, verbose=0), loaded.predict(ids, verbose=0), atol=1e-6)


def test_gathered_positions_equal_the_dense_scores():
    head = filled(MaskedLanguageModelHead(vocabulary_size=30), (None, None, 8))
    draw = np.random.default_rng(0)
    hidden, table = draw.normal(size=(2, 9, 8)).astype("float32"), draw.normal(size=(30, 8)).astype("float32")
    positions = np.array([[1, 4, 0], [8, 2, 2]])
    dense = ops.convert_to_numpy(head(hidden, table))
    gathered = ops.convert_to_numpy(head(hidden, table, positions))
    np.testing.assert_allclose(gathered, np.take_along_axis(dense, positions[:, :, None], axis=1), atol=1e-5)


def test_too_long_a_sequence_is_refused():
    layer = TransformerEmbeddings(vocabulary_size=9, max_sequence_length=4, hidden_dim=8)
    with pytest.raises(ValueError, match="5 tokens long, the model has 4 positions"):
        layer(np.zeros((1, 5), "int32"))


def test_initial_values_are_keyed_and_truncated():
    draw = KeyedTruncatedNormal(0.02, seed=1, key="block_0/output_kernel")
    values = ops.convert_to_numpy(draw((300, 400)))
    np.testing.assert_array_equal(values, ops.convert_to_numpy(draw((300, 400))))
    other = ops.convert_to_numpy(KeyedTruncatedNormal(0.02, seed=1, key="block_1/output_kernel")((300, 400)))
    assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.02
    assert np.abs(values).max() <= 0.04 + 1e-8
    # A normal cut at two deviations has 0.8796 of its deviation.
    assert abs(values.std() / 0.02 - 0.8796) < 0.01
    # Fixed for all time: the same on every backend, and checkpoints of a seed stay repeatable.
    np.testing.assert_allclose(values[0, :3], EXPECTED, rtol=1e-6)


EXPECTED = [0.027137570083141327, 0.002602533670142293, -0.007808476686477661]
