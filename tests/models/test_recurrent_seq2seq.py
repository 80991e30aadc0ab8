"""The recurrent encoder-decoder: masks, attention by hand, generation against its own logits, checkpoints."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import CausalLanguageModelLoss, RecurrentSeq2SeqConfig, RecurrentSeq2SeqLM
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings, generate_targets

VOCABULARY, PAD = 11, 10
SHAPE = {"vocabulary_size": VOCABULARY, "hidden_dim": 6, "max_sequence_length": 12, "dropout": 0.0}


def make_model(**settings):
    model = RecurrentSeq2SeqLM(RecurrentSeq2SeqConfig(**SHAPE | settings), seed=3)
    table = model.backbone.embeddings.token
    table.assign(np.random.default_rng(1).normal(0, 1, table.shape))
    return model


@pytest.fixture(scope="module", params=["lstm", "gru", "rnn"])
def model(request):
    return make_model(cell=request.param, num_layers=2)


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


def test_attention_is_luongs(model, batch):
    """The general score, by NumPy from the parts of the backbone."""
    inputs, _ = batch
    backbone, mask = model.backbone, inputs["encoder_padding_mask"]
    encoded, state = backbone.encode(inputs["encoder_token_ids"], mask)
    hidden, _ = backbone.decode(inputs["decoder_token_ids"], state)
    encoded, hidden = map(ops.convert_to_numpy, (encoded, hidden))

    def dense(layer, values):
        return values @ ops.convert_to_numpy(layer.kernel) + ops.convert_to_numpy(layer.bias)

    scores = dense(backbone.attention_query, hidden) @ encoded.transpose(0, 2, 1)
    scores = np.where(mask[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    joined = np.concatenate([weights @ encoded, hidden], axis=-1)
    expected = np.tanh(dense(backbone.attention_output, joined))
    found = backbone(inputs)["sequence_output"]
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)
    shown = ops.convert_to_numpy(backbone.cross_attention(inputs))
    np.testing.assert_allclose(shown[0, :, 0], weights, atol=1e-5)


def test_greedy_targets_follow_the_logits(model):
    sources = [[3, 1, 4, 1, 5, 0], [2, 7, 0]]
    settings = TargetSettings(Settings(max_new_tokens=6), max_ratio=None)
    found = [beams[0].tokens for beams in generate_targets(model, sources, settings)]
    for source, target in zip(sources, found, strict=True):
        written = [PAD]
        for place in range(6):
            room = [*written, *[PAD] * (5 - place)]  # of one length, as no position sees later ones
            inputs = {"encoder_token_ids": np.array([source]), "decoder_token_ids": np.array([room])}
            scores = logits_of(model, {n: v.astype("int32") for n, v in inputs.items()})[0, place].copy()
            scores[PAD] = -np.inf
            written.append(int(scores.argmax()))
            if written[-1] == 0:
                break
        assert target == [token for token in written[1:] if token != 0]
    several = generate_targets(
        model, sources, TargetSettings(Settings(num_beams=3, max_new_tokens=6), max_ratio=None)
    )
    assert all(own[0].score >= own[-1].score and len(own) == 3 for own in several)


def test_it_learns_and_is_saved(batch, tmp_path):
    inputs, labels = batch
    model = make_model()
    model.compile(keras.optimizers.Adam(0.05), loss=CausalLanguageModelLoss())
    losses = model.fit(inputs, labels, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.2 * losses[0]
    model.save_pretrained(tmp_path / "directory")
    model.save(tmp_path / "model.keras")
    for loaded in (
        RecurrentSeq2SeqLM.from_pretrained(tmp_path / "directory"),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        np.testing.assert_allclose(logits_of(loaded, inputs), logits_of(model, inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "elman"}, "cell is 'elman'"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"end_token_id": PAD}, "padding needs a token of its own"),
        ({"pad_token_id": 11}, "pad_token_id is 11, the vocabulary has 11"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RecurrentSeq2SeqConfig(**SHAPE | settings)
