"""Recurrent models: what they may not see, the state they carry, generation, checkpoints, the classifier."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import RecurrentBackbone, RecurrentClassifier, RecurrentConfig, RecurrentLM
from kerasllm.data.batches.lanes import LaneBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.optimization.optimizers import adamw

VOCABULARY = 20
SHAPE = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": 8, "embedding_dim": 6}
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (3, 8)).astype("int32")


def logits(model, **inputs):
    return ops.convert_to_numpy(model(inputs))


@pytest.fixture(scope="module")
def model():
    return RecurrentLM(RecurrentConfig(**SHAPE, end_token_id=0), seed=2)


def stream(size=400):
    random = np.random.default_rng(1)
    tokens = random.integers(0, VOCABULARY - 1, size).astype(np.uint16)
    return TokenStream(tokens, np.zeros(1, np.int64), VOCABULARY, VOCABULARY - 1)


def test_the_future_does_not_leak(model):
    changed = IDS.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % VOCABULARY
    one, other = logits(model, token_ids=IDS), logits(model, token_ids=changed)
    assert (one[:, :5] == other[:, :5]).all() and np.abs(one[:, 5:] - other[:, 5:]).max() > 1e-3


def test_padding_does_not_leak(model):
    whole = logits(model, token_ids=IDS)
    padded = np.concatenate([np.full((3, 3), 7), IDS, np.full((3, 2), 7)], axis=1).astype("int32")
    mask = np.zeros(padded.shape, "int32")
    mask[:, 3:11] = 1
    np.testing.assert_allclose(logits(model, token_ids=padded, padding_mask=mask)[:, 3:11], whole, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_parts_of_a_text_with_a_carried_state_equal_the_whole(cell):
    model = RecurrentLM(RecurrentConfig(**SHAPE, cell=cell), seed=2)
    parameters = model.count_params()
    model.carry_state(evaluation_rows=3, training_rows=2)
    assert model.count_params() == parameters and "evaluation_state/state_0" not in model.named_variables()
    whole = logits(model, token_ids=IDS)
    for _ in range(2):  # the second time, the flags begin the text anew
        first = logits(model, token_ids=IDS[:, :3], continues=np.zeros(3, "int32"))
        rest = logits(model, token_ids=IDS[:, 3:], continues=np.array([1, 1, 0], "int32"))
        np.testing.assert_allclose(first, whole[:, :3], atol=1e-6)
        np.testing.assert_allclose(rest[:2], whole[:2, 3:], atol=1e-6)
        assert np.abs(rest[2] - whole[2, 3:]).max() > 1e-3
    with pytest.raises(InputError, match="1 rows continues another, and the model has a state of 3 rows"):
        model({"token_ids": IDS[:1], "continues": np.zeros(1, "int32")})


def trained(accumulation, steps=6, **settings):
    """Losses of steps of six lanes, and the weights after them."""
    keras.utils.set_random_seed(0)
    model = RecurrentLM(RecurrentConfig(**SHAPE, **settings), seed=2)
    rows = 6 // accumulation
    model.carry_state(training_rows=rows, parts=accumulation)
    CausalLanguageModeling().compile(
        model, adamw(1e-2, gradient_accumulation=accumulation), normalized_weights=accumulation > 1
    )
    batches = LaneBatches(
        stream(), context_length=5, batch_size=rows, steps=steps, seed=3, gradient_accumulation=accumulation
    )
    losses = np.array([float(model.train_on_batch(*batches[index])) for index in range(len(batches))])
    weights = [ops.convert_to_numpy(weight) for weight in model.weights]
    return losses.reshape(steps, -1).mean(axis=1), weights, model


@pytest.mark.usefixtures("without_xla")
def test_accumulated_batches_carry_states_of_their_own():
    losses, weights, model = trained(1)
    other_losses, other_weights, _ = trained(3)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    for one, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5)
    assert all(np.abs(ops.convert_to_numpy(state)).max() > 0 for state in model.training_state.kept)


@pytest.mark.usefixtures("without_xla")
def test_a_batch_that_goes_wrong_leaves_the_carried_state():
    _, _, model = trained(1, steps=1)
    model.catch_non_finite = True
    model.make_train_function(force=True)
    before = [ops.convert_to_numpy(state).copy() for state in model.training_state.kept]
    ids = IDS[[0, 1, 2, 0, 1, 2], :5]
    weights = np.full(ids.shape, np.inf, "float32")
    inputs = {"token_ids": ids, "continues": np.ones(6, "int32")}
    logs = model.train_on_batch(inputs, ids, weights, return_dict=True)
    assert not np.isfinite(logs["gradient_norm"])
    for state, old in zip(model.training_state.kept, before, strict=True):
        assert (ops.convert_to_numpy(state) == old).all()


def test_generation_goes_on_with_the_state(model):
    prompts = [[3, 5, 7, 2], [9]]
    found = model.generate(prompts, max_new_tokens=4, stop_token_ids=[])
    for prompt, text in zip(prompts, found, strict=True):
        expected = list(prompt)
        for _ in range(4):
            room = [*expected, *[0] * (8 - len(expected))]  # of one length, as no token sees later ones
            scores = logits(model, token_ids=np.array([room], "int32"))
            expected.append(int(scores[0, len(expected) - 1].argmax()))
        assert list(text) == expected


def test_beam_search_equals_a_search_of_all_texts(model):
    """With as many beams as tokens, the best of two new tokens is found."""
    (found,) = model.generate([[3, 5]], max_new_tokens=2, num_beams=VOCABULARY, stop_token_ids=[])
    pairs = [(one, other) for one in range(VOCABULARY) for other in range(VOCABULARY)]
    texts = np.array([[3, 5, *pair] for pair in pairs], "int32")
    scores = logits(model, token_ids=texts).astype("float64")
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    sums = [scores[row, 1, one] + scores[row, 2, other] for row, (one, other) in enumerate(pairs)]
    assert tuple(found[2:]) == pairs[int(np.argmax(sums))]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cell": "gru", "tie_embeddings": True, "use_projection": True},
        {"cell": "rnn", "activation": "relu"},
    ],
)
def test_checkpoints_give_the_same_logits(settings, tmp_path):
    model = RecurrentLM(RecurrentConfig(**SHAPE, **settings), seed=2)
    expected = logits(model, token_ids=IDS)
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "kerasllm_recurrent"
    assert (logits(RecurrentLM.from_pretrained(tmp_path / "model"), token_ids=IDS) == expected).all()
    model.carry_state(training_rows=2)
    model.save(tmp_path / "model.keras")
    assert (logits(keras.saving.load_model(tmp_path / "model.keras"), token_ids=IDS) == expected).all()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_classifier_sees_no_padding_and_is_saved(pooling, tmp_path):
    config = RecurrentConfig(**SHAPE, bidirectional=True)
    model = RecurrentClassifier(config, label_names=["bad", "fair", "good"], pooling=pooling, seed=2)
    expected = logits(model, token_ids=IDS)
    padded = np.concatenate([IDS, np.full((3, 4), 7)], axis=1).astype("int32")
    mask = np.arange(12)[None] < np.full((3, 1), 8)
    found = logits(model, token_ids=padded, padding_mask=mask.astype("int32"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    model.save_pretrained(tmp_path)
    again = RecurrentClassifier.from_pretrained(tmp_path)
    assert (again.label_names, again.pooling) == (("bad", "fair", "good"), pooling)
    assert (logits(again, token_ids=IDS) == expected).all()


def test_the_last_state_of_both_directions_is_pooled():
    model = RecurrentClassifier(RecurrentConfig(**SHAPE, bidirectional=True), pooling="last", seed=2)
    hidden = ops.convert_to_numpy(model.backbone({"token_ids": IDS})["sequence_output"])
    pooled = np.concatenate([hidden[:, -1, :8], hidden[:, 0, 8:]], axis=1)
    kernel, bias = map(ops.convert_to_numpy, (model.classifier.kernel, model.classifier.bias))
    np.testing.assert_allclose(logits(model, token_ids=IDS), pooled @ kernel + bias, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "elman"}, "cell is 'elman', it must be one of lstm, gru, rnn"),
        ({"activation": "relu"}, "activation is relu, which only the cell 'rnn' can have"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"weight_drop": 1.0}, "weight_drop is 1.0, it must lie in"),
        (
            {"tie_embeddings": True, "embedding_dim": 3},
            "tie_embeddings needs an output as wide as the embedding",
        ),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RecurrentConfig(**settings)


def test_a_language_model_reads_in_one_direction():
    with pytest.raises(ValueError, match="bidirectional is True"):
        RecurrentLM(RecurrentConfig(**SHAPE, bidirectional=True))


def test_flops_count_each_matrix_once_a_token(model):
    config = model.config
    recurrent = 4 * 8 * (6 + 8) + 4 * 8 * (8 + 8)
    assert model.training_flops(10) == 6 * (recurrent + VOCABULARY * 8)
    assert RecurrentBackbone(config).training_flops(10) == 6 * recurrent
