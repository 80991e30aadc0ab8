"""The encoder-decoder: masks, padding's embedding, loss in chunks, generation against brute force, checkpoints."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import CausalLanguageModelLoss, Seq2SeqConfig, Seq2SeqLM
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings, generate_targets

VOCABULARY, PAD = 9, 8
SHAPE = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "max_sequence_length": 12,
}
OWN = {
    "normalize_first": True,
    "normalization": "rms_norm",
    "positions": "learned",
    "feed_forward": "gated",
    "activation": "silu",
    "tie_embeddings": False,
}


def make_model(**settings):
    """A model with weights so large that much would be noticed."""
    model = Seq2SeqLM(Seq2SeqConfig(**SHAPE | {"dropout": 0.0, "num_decoder_layers": 2} | settings), seed=3)
    random = np.random.default_rng(1)
    for name, variable in model.named_variables().items():
        if name.endswith("kernel") or "embeddings" in name:
            value = random.normal(0, 0.6, variable.shape)
            if name == "embeddings/token":
                value[PAD] = 0
            variable.assign(value)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    source, target = random.integers(1, PAD, (3, 6)), random.integers(1, PAD, (3, 5))
    mask = np.arange(6) < np.array([[6], [4], [2]])
    decoder = np.concatenate([np.full((3, 1), PAD), target[:, :-1]], axis=1)
    inputs = {
        "encoder_token_ids": np.where(mask, source, PAD).astype("int32"),
        "encoder_padding_mask": mask.astype("int32"),
        "decoder_token_ids": decoder.astype("int32"),
    }
    return inputs, target.astype("int32")


def logits_of(model, inputs):
    return ops.convert_to_numpy(model(inputs))


def test_no_position_sees_later_targets_or_padding(model, batch):
    inputs, _ = batch
    whole = logits_of(model, inputs)
    assert whole.shape == (3, 5, VOCABULARY)
    changed = inputs["decoder_token_ids"].copy()
    changed[:, 3:] = 1
    found = logits_of(model, inputs | {"decoder_token_ids": changed})
    np.testing.assert_allclose(found[:, :3], whole[:, :3], atol=1e-5)
    assert np.abs(found[:, 3:] - whole[:, 3:]).max() > 1e-3
    longer = {
        name: np.pad(inputs[name], ((0, 0), (0, 3))) for name in ("encoder_token_ids", "encoder_padding_mask")
    }
    longer["encoder_token_ids"][:, 6:] = 5  # padding may hold anything
    np.testing.assert_allclose(logits_of(model, inputs | longer), whole, atol=1e-5)


def test_the_embedding_of_padding_is_zero_and_stays_so(batch):
    inputs, labels = batch
    model = make_model()
    model.compile(keras.optimizers.AdamW(1e-2), loss=CausalLanguageModelLoss(label_smoothing=0.1))
    model.fit(inputs, labels, epochs=3, verbose=0)
    table = ops.convert_to_numpy(model.backbone.embeddings.token)
    assert not table[PAD].any() and np.abs(table[:PAD]).min(axis=1).max() > 0
    untrained = Seq2SeqLM(Seq2SeqConfig(**SHAPE), seed=0)
    assert not ops.convert_to_numpy(untrained.backbone.embeddings.token)[PAD].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_in_chunks_is_that_of_all_logits(model, batch, smoothing):
    inputs, labels = batch
    weights = (np.arange(5) < np.array([[5], [3], [4]])).astype("float32")
    logits = logits_of(model, inputs).astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]
    losses = -(1 - smoothing) * right - smoothing * log_probabilities.mean(-1)
    expected = (losses * weights).sum() / weights.sum()
    for chunk_size in (0, 4):
        loss = CausalLanguageModelLoss(label_smoothing=smoothing, chunk_size=chunk_size)
        model.compile("sgd", loss=loss)
        assert float(model.test_on_batch(inputs, labels, weights)) == pytest.approx(expected, rel=1e-5)


def test_gradients_in_chunks_are_those_of_all_logits(batch):
    inputs, labels = batch
    found = []
    for chunk_size in (0, 4):
        model = make_model()
        loss = CausalLanguageModelLoss(label_smoothing=0.1, chunk_size=chunk_size)
        model.compile(keras.optimizers.SGD(0.5), loss=loss)
        model.fit(inputs, labels, verbose=0)
        found.append({name: ops.convert_to_numpy(each) for name, each in model.named_variables().items()})
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, atol=2e-5, err_msg=name)


def all_scores(model, source):
    """The log probability of each whole target of at most three tokens, from the logits of one call."""
    beginnings = list(itertools.product(range(1, PAD), repeat=2))
    inputs = {
        "encoder_token_ids": np.array([source] * len(beginnings), "int32"),
        "decoder_token_ids": np.array([[PAD, *tokens] for tokens in beginnings], "int32"),
    }
    logits = logits_of(model, inputs).astype("float64")
    logits[..., PAD] = -np.inf
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = {}
    for (first, second), own in zip(beginnings, log_probabilities, strict=True):
        found[(0,)] = own[0, 0]
        found[(first, 0)] = own[0, first] + own[1, 0]
        for last in range(PAD):
            found[(first, second, last)] = own[0, first] + own[1, second] + own[2, last]
    return found


def test_greedy_and_beams_against_all_targets(model):
    sources = [
        [3, 1, 4, 0],
        [5, 2, 1, 0],
        [2, 0],
    ]  # of two lengths, for each of which operations are compiled
    scores = [all_scores(model, source) for source in sources]
    settings = {"max_new_tokens": 3}
    greedy = generate_targets(model, sources, TargetSettings(Settings(**settings)))
    for own, (found,) in zip(scores, greedy, strict=True):
        assert sum(map(math.exp, own.values())) == pytest.approx(1)  # these are all targets there are
        target = ()
        while len(target) < 3 and 0 not in target:
            target += (max(range(PAD), key=lambda token: total(own, (*target, token))),)
        assert found.tokens == [token for token in target if token]
    for gnmt in (False, True):
        chosen = TargetSettings(
            Settings(num_beams=64, length_penalty=0.7, **settings), batch_size=2, gnmt=gnmt
        )
        offset = 5 if gnmt else 0
        for own, found in zip(scores, generate_targets(model, sources, chosen), strict=True):
            penalized = {
                target: value / ((offset + len(target)) / (offset + 1)) ** 0.7
                for target, value in own.items()
            }
            best = sorted(penalized, key=penalized.__getitem__, reverse=True)[:3]
            assert [beam.tokens for beam in found[:3]] == [[t for t in target if t] for target in best]
            np.testing.assert_allclose(
                [beam.score for beam in found[:3]], [penalized[t] for t in best], rtol=1e-4
            )


def total(scores, beginning):
    """The probability of all targets that begin so."""
    return sum(math.exp(value) for target, value in scores.items() if target[: len(beginning)] == beginning)


def test_targets_do_not_depend_on_the_batch_and_keep_to_their_room(model):
    sources = [[3, 1, 4, 0], [2, 0], [5, 5, 6, 1, 2, 0]]
    alone = [generate_targets(model, [source], TargetSettings(Settings()))[0] for source in sources]
    together = generate_targets(model, sources, TargetSettings(Settings(), batch_size=3))
    assert [each[0].tokens for each in alone] == [each[0].tokens for each in together]
    short = generate_targets(model, sources, TargetSettings(Settings(max_new_tokens=2)))
    assert all(len(each[0].tokens) <= 2 for each in short)
    assert math.isnan(short[0][0].score)


@pytest.mark.parametrize("settings", [{}, OWN], ids=["marian", "own"])
def test_saved_and_loaded(settings, batch, tmp_path):
    model = make_model(**settings)
    model.save_pretrained(tmp_path)
    again = Seq2SeqLM.from_pretrained(tmp_path)
    assert again.config == model.config
    np.testing.assert_array_equal(logits_of(again, batch[0]), logits_of(model, batch[0]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(loaded, batch[0]), logits_of(model, batch[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_dim": 9, "num_heads": 3}, "hidden_dim is 9, with sinusoidal positions it must be even"),
        ({"pad_token_id": 0}, "pad_token_id is 0, the end token"),
        ({"end_token_id": 9}, "end_token_id is 9, the vocabulary has 9"),
        ({"positions": "rotary"}, "positions is 'rotary'"),
        ({"num_heads": 3}, "hidden_dim 8 does not divide by num_heads 3"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqConfig(**SHAPE | settings)


def test_a_functional_model_around_the_backbone(model, batch, tmp_path):
    """Batch and lengths unknown; saved and loaded."""
    inputs, _ = batch
    named = {name: keras.Input((None,), dtype="int32", name=name) for name in inputs}
    outputs = keras.layers.Dense(2)(model.backbone(named)["sequence_output"])
    functional = keras.Model(named, outputs)
    functional.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for length in (5, 3):
        given = inputs | {"decoder_token_ids": inputs["decoder_token_ids"][:, :length]}
        expected = functional.layers[-1](model.backbone(given)["sequence_output"])
        for some in (functional, loaded):
            found = some.predict(given, verbose=0)
            np.testing.assert_allclose(found, ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-5)
