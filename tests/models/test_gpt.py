"""GPT's models as their users meet them: no look ahead, options, plain `fit`, saving, adapters."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import CausalLanguageModelLoss, GPTBackbone, GPTCausalLM, GPTConfig, Perplexity
from kerasllm.models import GPT_SIZES

CONFIG = GPTConfig(
    vocabulary_size=50, num_layers=2, num_heads=4, hidden_dim=16, max_sequence_length=12, dropout=0.0
)
LLAMA = dataclasses.replace(
    CONFIG,
    normalization="rms_norm",
    positions="rotary",
    feed_forward="gated",
    activation="silu",
    num_key_value_heads=2,
    use_bias=False,
    tie_embeddings=False,
)
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 50, (3, 13)).astype("int32")
INPUTS, LABELS = {"token_ids": TOKENS[:, :-1]}, TOKENS[:, 1:]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def compiled(config, chunk_size=None, **settings):
    model = GPTCausalLM(config, seed=1, **settings)
    loss = CausalLanguageModelLoss(chunk_size=chunk_size)
    model.compile(keras.optimizers.SGD(0.5), loss=loss, run_eagerly=keras.backend.backend() == "tensorflow")
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_the_future_does_not_leak(config, dropout):
    config = dataclasses.replace(
        config, dropout=dropout, attention_dropout=dropout, embedding_dropout=dropout
    )
    changed = TOKENS[:, :-1].copy()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    before, after = (
        numpy(GPTCausalLM(config, seed=4)({"token_ids": ids}, training=True))
        for ids in (TOKENS[:, :-1], changed)
    )
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-3
    if dropout:  # the same masks, but they are there
        still = numpy(GPTCausalLM(config, seed=4)({"token_ids": changed}))
        assert np.abs(still - after).max() > 1e-3


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_attention_within_segments_is_that_of_each_alone(config):
    model = GPTCausalLM(config, seed=2)
    segments = np.tile(np.repeat([0, 1, 2], [5, 3, 4]), (3, 1))
    positions = np.tile(np.concatenate([np.arange(n) for n in (5, 3, 4)]), (3, 1))
    packed = numpy(model({**INPUTS, "sequence_ids": segments, "position_ids": positions}))
    start = 0
    for length in (5, 3, 4):
        part = slice(start, start + length)
        alone = numpy(model({"token_ids": INPUTS["token_ids"][:, part]}))
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-5)
        start += length


def test_padding_before_tokens_changes_nothing():
    model = GPTCausalLM(CONFIG, seed=2)
    ids = INPUTS["token_ids"][:, 4:]
    padded = np.concatenate([np.zeros((3, 4), "int32"), ids], axis=1)
    mask = (np.arange(12) >= 4).astype("int32") * np.ones((3, 1), "int32")
    positions = np.maximum(np.arange(12) - 4, 0) * np.ones((3, 1), "int32")
    left = numpy(model({"token_ids": padded, "padding_mask": mask, "position_ids": positions}))
    np.testing.assert_allclose(left[:, 4:], numpy(model({"token_ids": ids})), atol=1e-5)
    assert np.isfinite(left).all()


def test_rotary_positions_are_relative():
    model = GPTCausalLM(LLAMA, seed=2)
    shifted = {**INPUTS, "position_ids": np.arange(12)[None] + 300 + np.zeros((3, 1), "int32")}
    np.testing.assert_allclose(numpy(model(shifted)), numpy(model(INPUTS)), atol=1e-4)


def test_residual_projections_begin_smaller():
    config = GPTConfig(vocabulary_size=10, num_layers=8, num_heads=4, hidden_dim=64, max_sequence_length=8)
    variables = GPTBackbone(config, seed=0).named_variables()
    small, plain = 0.02 / 4, 0.02  # sqrt(2 * 8) = 4
    for name, deviation in (
        ("attention_output_kernel", small),
        ("output_kernel", small),
        ("query_key_value_kernel", plain),
        ("intermediate_kernel", plain),
    ):
        found = np.concatenate([numpy(variables[f"block_{index}/{name}"]).ravel() for index in range(8)])
        assert found.std() == pytest.approx(deviation, rel=0.02), name
    assert np.abs(found).max() > 2.2 * plain  # not truncated


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_chunks_change_nothing(config):
    """Loss, and weights after two steps, with all logits at once and in chunks, one of them cut short."""
    weights = RANDOM.random((3, 12)).astype("float32")
    weights[0, :5] = 0
    whole, chunked = compiled(config, 0), compiled(config, 7)
    for _ in range(2):
        expected = whole.train_on_batch(INPUTS, LABELS, weights)
        assert chunked.train_on_batch(INPUTS, LABELS, weights) == pytest.approx(expected, rel=1e-5)
    for name, variable in whole.named_variables().items():
        found = numpy(chunked.named_variables()[name])
        np.testing.assert_allclose(found, numpy(variable), atol=2e-6, err_msg=name)
    assert chunked.test_on_batch(INPUTS, LABELS) == pytest.approx(
        whole.test_on_batch(INPUTS, LABELS), rel=1e-5
    )
    assert chunked.predict_on_batch(INPUTS).shape == (3, 12, 50)


def test_all_logits_are_made_only_if_somebody_wants_them(monkeypatch):
    projected = []
    plain = GPTCausalLM.project
    monkeypatch.setattr(
        GPTCausalLM, "project", lambda self, hidden: projected.append(1) or plain(self, hidden)
    )
    model = compiled(CONFIG)
    model.train_on_batch(INPUTS, LABELS)
    in_symbolic_build = len(projected)
    model.train_on_batch(INPUTS, LABELS)
    model.test_on_batch(INPUTS, LABELS)
    assert len(projected) == in_symbolic_build
    model.compile("sgd", loss=CausalLanguageModelLoss(), metrics=[Perplexity()], run_eagerly=True)
    figures = model.train_on_batch(INPUTS, LABELS, return_dict=True)
    assert len(projected) > in_symbolic_build
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]), rel=1e-4)


def test_a_subclass_with_its_own_call_gets_plain_keras():
    class Doubled(GPTCausalLM):
        def call(self, inputs, training=False):
            return super().call(inputs, training=training) * 2

    model = Doubled(CONFIG, seed=1)
    model.compile(loss=CausalLanguageModelLoss(), optimizer="sgd")
    logits = numpy(model(INPUTS)).astype("float64")
    normalizer = np.log(np.exp(logits).sum(-1))
    expected = (normalizer - np.take_along_axis(logits, LABELS[..., None], -1)[..., 0]).mean()
    assert model.test_on_batch(INPUTS, LABELS) == pytest.approx(expected, rel=1e-5)


def test_fit_learns_and_keras_saves(tmp_path):
    model = GPTCausalLM(CONFIG, seed=0)
    model.compile(keras.optimizers.AdamW(1e-2), loss=CausalLanguageModelLoss())
    history = model.fit(INPUTS, LABELS, epochs=30, batch_size=3, verbose=0).history["loss"]
    assert history[0] == pytest.approx(np.log(50), rel=0.05)
    assert history[-1] < 0.5 * history[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(again(INPUTS)), numpy(model(INPUTS)))
    assert again.config == CONFIG


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_adapters_learn_alone_and_merge(config, tmp_path):
    model = compiled(config, lora_rank=3)
    plain = numpy(GPTCausalLM(config, seed=1)(INPUTS))
    np.testing.assert_allclose(numpy(model(INPUTS)), plain, atol=1e-6)  # b is zero at first
    before = {name: numpy(value).copy() for name, value in model.named_variables().items()}
    for _ in range(3):
        model.train_on_batch(INPUTS, LABELS)
    moved = {n for n, v in model.named_variables().items() if np.abs(numpy(v) - before[n]).max() > 0}
    assert moved and all("lora" in name for name in moved)
    kernels = 2 * 4
    assert len(model.trainable_variables) == 2 * kernels
    model.save_pretrained(tmp_path)
    merged = GPTCausalLM.from_pretrained(tmp_path)
    assert not any("lora" in name for name in merged.named_variables())
    np.testing.assert_allclose(numpy(merged(INPUTS)), numpy(model(INPUTS)), atol=1e-5)
    assert np.abs(numpy(model(INPUTS)) - plain).max() > 1e-3
    again = GPTCausalLM.from_config(model.get_config())
    assert again.backbone.lora_rank == 3


def test_sizes():
    for name, count in (("gpt2", 124_439_808), ("gpt2_xl", 1_557_611_200)):
        config = GPTConfig.from_size(name)
        block = 12 * config.hidden_dim**2 + 13 * config.hidden_dim
        tables = (config.vocabulary_size + config.max_sequence_length) * config.hidden_dim
        assert config.num_layers * block + tables + 2 * config.hidden_dim == count  # as published
    assert (
        GPTCausalLM(dataclasses.replace(CONFIG, num_layers=1)).count_params()
        == 12 * 256 + 13 * 16 + 62 * 16 + 32
    )
    for name in GPT_SIZES:
        GPTConfig.from_size(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 0},
        {"hidden_dim": 18},
        {"num_key_value_heads": 3},
        {"dropout": 1.0},
        {"positions": "sinusoidal"},
        {"normalization": "batch"},
        {"hidden_dim": 12, "num_heads": 4, "positions": "rotary"},
        {"vocabulary_size": True},
    ],
)
def test_impossible_shapes_are_refused_by_name(changes):
    with pytest.raises(ValueError, match=next(iter(changes)) if len(changes) == 1 else "positions"):
        dataclasses.replace(CONFIG, **{"intermediate_dim": None, "num_key_value_heads": None, **changes})


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="12 positions"):
        GPTCausalLM(CONFIG)({"token_ids": np.zeros((1, 13), "int32")})
