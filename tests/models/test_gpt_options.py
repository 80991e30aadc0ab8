"""Each option of GPT by itself, and all together, against a forward pass written in NumPy."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import erf, log_softmax, softmax

from kerasllm import CausalLanguageModelLoss, GPTCausalLM, GPTConfig
from kerasllm.layers import attention

CONFIG = GPTConfig(
    vocabulary_size=50,
    num_layers=2,
    num_heads=4,
    hidden_dim=16,
    max_sequence_length=32,
    dropout=0.0,
    initializer_range=0.3,
)
OPTIONS = {
    "none": {},
    "rms_norm": {"normalization": "rms_norm"},
    "rotary": {"positions": "rotary"},
    "gated": {"feed_forward": "gated", "activation": "silu", "intermediate_dim": 24},
    "grouped": {"num_key_value_heads": 2},
    "no_bias": {"use_bias": False},
    "untied": {"tie_embeddings": False},
    "exact_gelu": {"activation": "gelu"},
}
OPTIONS["all"] = {name: value for option in OPTIONS.values() for name, value in option.items()}
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 13)).astype("int32")


def made(options):
    """A model in which no weight is still 0 or 1."""
    model = GPTCausalLM(dataclasses.replace(CONFIG, **options), seed=1)
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(np.array(ops.convert_to_numpy(variable)) + random.normal(0, 0.1, variable.shape))
    return model


def reference(model, ids):
    """The logits of `ids` (batch, length), in float64."""
    config, backbone = model.config, model.backbone

    def weight(layer, name):
        value = {variable.name: variable for variable in layer.variables}.get(name)
        return 0.0 if value is None else ops.convert_to_numpy(value).astype("float64")

    def norm(layer, name, hidden):
        if config.normalization == "layer_norm":
            hidden = hidden - hidden.mean(-1, keepdims=True)
        hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + config.layer_norm_epsilon)
        return hidden * weight(layer, f"{name}_scale") + weight(layer, f"{name}_bias")

    def projected(layer, name, hidden):
        return hidden @ weight(layer, f"{name}_kernel") + weight(layer, f"{name}_bias")

    def activated(values):
        if config.activation == "silu":
            return values / (1 + np.exp(-values))
        if config.activation == "gelu":
            return values / 2 * (1 + erf(values / np.sqrt(2)))
        return values / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)))

    def turned(heads):
        half = config.head_dim // 2
        angles = np.arange(length)[:, None] * config.rotary_base ** (-np.arange(half) / half)
        pairs = (heads[..., :half] + 1j * heads[..., half:]) * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    batch, length = ids.shape
    hidden = weight(backbone.embeddings, "token")[ids]
    if config.positions == "learned":
        hidden = hidden + weight(backbone.embeddings, "position")[:length]
    for block in backbone.blocks:
        heads = projected(block, "query_key_value", norm(block, "attention_norm", hidden))
        heads = heads.reshape(batch, length, -1, config.head_dim).swapaxes(1, 2)
        cuts = np.cumsum([config.num_heads, config.key_value_heads])
        query, key, value = np.split(heads, cuts, axis=1)
        if config.positions == "rotary":
            query, key = turned(query), turned(key)
        shared = config.num_heads // config.key_value_heads
        key, value = key.repeat(shared, axis=1), value.repeat(shared, axis=1)
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(config.head_dim)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        attended = (softmax(scores, axis=-1) @ value).swapaxes(1, 2).reshape(batch, length, -1)
        hidden = hidden + projected(block, "attention_output", attended)
        wide = projected(block, "intermediate", norm(block, "feed_forward_norm", hidden))
        if config.feed_forward == "gated":
            gate, up = np.split(wide, 2, axis=-1)
            wide = activated(gate) * up
        else:
            wide = activated(wide)
        hidden = hidden + projected(block, "output", wide)
    hidden = norm(backbone.final_norm, "norm", hidden)
    table = weight(backbone.embeddings, "token") if model.head is None else weight(model.head, "kernel")
    return hidden @ table.T


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_those_of_the_reference(name):
    model = made(OPTIONS[name])
    found = ops.convert_to_numpy(model({"token_ids": TOKENS}))
    np.testing.assert_allclose(found, reference(model, TOKENS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_in_bfloat16_it_is_the_same_but_for_rounding(name, bfloat16):
    bfloat16()
    model = made(OPTIONS[name])
    expected = reference(model, TOKENS)
    found = ops.convert_to_numpy(ops.cast(model({"token_ids": TOKENS}), "float32"))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    model.compile("sgd", loss=CausalLanguageModelLoss())
    data = ({"token_ids": TOKENS[:, :-1]}, TOKENS[:, 1:])
    loss = model.fit(*data, batch_size=3, verbose=0).history["loss"][0]
    likely = log_softmax(expected[:, :-1], axis=-1)
    np.testing.assert_allclose(loss, -np.take_along_axis(likely, TOKENS[:, 1:, None], -1).mean(), rtol=0.02)


def test_the_angles_of_rotary_positions_reach_every_block_in_float32(bfloat16, monkeypatch):
    seen = []

    def rotate(heads, tables):
        seen.extend(keras.backend.standardize_dtype(table.dtype) for table in tables)
        return own(heads, tables)

    own = attention.rotate
    monkeypatch.setattr(attention, "rotate", rotate)
    bfloat16()
    made(OPTIONS["rotary"])({"token_ids": TOKENS})
    assert set(seen) == {"float32"} and len(seen) == 2 * 2 * CONFIG.num_layers


@pytest.mark.parametrize("name", OPTIONS)
def test_the_cached_continuation_is_the_references(name):
    model = made(OPTIONS[name])
    found = model.generate(TOKENS[:2, :4], max_new_tokens=6)
    ids = TOKENS[:2, :4]
    for _ in range(6):
        ids = np.concatenate([ids, reference(model, ids)[:, -1:].argmax(-1)], axis=1)
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    model = made(OPTIONS[name])
    model.save_pretrained(tmp_path)
    again = GPTCausalLM.from_pretrained(tmp_path)
    # What the format has no biases for is written with biases of zero.
    expected = dataclasses.replace(model.config, use_bias=again.config.use_bias)
    assert again.config == expected
    np.testing.assert_array_equal(
        *(ops.convert_to_numpy(one({"token_ids": TOKENS})) for one in (model, again))
    )


def test_without_biases_a_step_is_that_of_biases_kept_at_zero():
    """By the compiled step, whose gradients are written by hand on some backends."""
    losses = []
    for use_bias in (True, False):
        model = GPTCausalLM(dataclasses.replace(CONFIG, use_bias=use_bias), seed=1)
        for layer in [*model.backbone.blocks, model.backbone.final_norm]:
            for variable in layer.trainable_variables:
                if variable.name.endswith("bias"):
                    variable.trainable = False
        model.compile(keras.optimizers.SGD(0.5), loss=CausalLanguageModelLoss())
        data = ({"token_ids": TOKENS[:, :-1]}, TOKENS[:, 1:])
        losses.append(model.fit(*data, epochs=4, batch_size=3, shuffle=False, verbose=0).history["loss"])
    assert losses[0][-1] < 0.9 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
