"""What Keras' users do with encoder-decoders and recurrent models: functional models, files, weights, wrong inputs."""

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm import RecurrentConfig, RecurrentSeq2SeqConfig, Seq2SeqConfig
from kerasllm.errors import InputError
from kerasllm.losses import spread_over_labels

SHAPE = {"vocabulary_size": 300, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 12}
BERT, SEQ2SEQ = kerasllm.BertConfig(**SHAPE, dropout=0.3), Seq2SeqConfig(**SHAPE, dropout=0.3)
RECURRENT = RecurrentConfig(vocabulary_size=300, hidden_dim=8, dropout=0.3)
PAIRS = RecurrentSeq2SeqConfig(vocabulary_size=300, hidden_dim=8, dropout=0.3, max_sequence_length=12)
IDS = np.random.default_rng(0).integers(5, 290, (4, 6)).astype("int32")
SINGLE = {"token_ids": IDS, "padding_mask": (np.arange(6) < [[6], [4], [6], [3]]).astype("int32")}
DOUBLE = {
    "encoder_token_ids": IDS,
    "encoder_padding_mask": SINGLE["padding_mask"],
    "decoder_token_ids": IDS[::-1],
}
MODELS = {
    "BertTokenClassifier": (
        lambda **more: kerasllm.BertTokenClassifier(BERT, num_classes=3, seed=0, **more),
        SINGLE,
        IDS % 3,
    ),
    "RecurrentLM": (lambda **more: kerasllm.RecurrentLM(RECURRENT, seed=0, **more), SINGLE, IDS),
    "RecurrentClassifier": (
        lambda **more: kerasllm.RecurrentClassifier(RECURRENT, seed=0, **more),
        SINGLE,
        IDS[:, 0] % 2,
    ),
    "Seq2SeqLM": (lambda **more: kerasllm.Seq2SeqLM(SEQ2SEQ, seed=0, **more), DOUBLE, IDS),
    "RecurrentSeq2SeqLM": (lambda **more: kerasllm.RecurrentSeq2SeqLM(PAIRS, seed=0, **more), DOUBLE, IDS),
}

pytestmark = pytest.mark.usefixtures("uncompiled")


def values(outputs):
    return keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))


def trained(model, inputs, labels, weights=None):
    return model.fit(
        inputs, labels, sample_weight=weights, batch_size=2, epochs=1, shuffle=False, verbose=0
    ).history["loss"]


@pytest.mark.parametrize("name", ["RecurrentLM", "Seq2SeqLM", "RecurrentSeq2SeqLM"])
def test_in_a_functional_model_that_is_saved_and_goes_on(name, tmp_path):
    """Of unknown rows and lengths, with the dropout that it would have had without being saved."""
    make, inputs, labels = MODELS[name]
    own = make()
    symbols = {key: keras.Input((None,), dtype="int32", name=key) for key in inputs}
    model = keras.Model(symbols, own(symbols))
    model.compile(
        keras.optimizers.SGD(0.1), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    trained(model, inputs, labels)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(values(loaded(inputs)), values(model(inputs)))
    assert trained(loaded, inputs, labels) == trained(model, inputs, labels)
    shorter = {key: value[:, :5] for key, value in inputs.items()}
    np.testing.assert_allclose(values(model(shorter)), values(own(shorter)), atol=1e-6)


def test_summaries_show_shapes(capsys):
    for model in (kerasllm.RecurrentBackbone(RECURRENT), kerasllm.RecurrentSeq2SeqBackbone(PAIRS)):
        model.summary()
        shown = capsys.readouterr().out
        assert "RecurrentLayer" in shown and "?" not in shown


def test_weights_of_rows_weigh_all_their_tokens():
    make, inputs, labels = MODELS["Seq2SeqLM"]
    weights = np.array([0.0, 1.0, 5.0, 2.0], "float32")
    full = np.repeat(weights[:, None], labels.shape[1], axis=1)
    losses = []
    half = make(dtype="mixed_bfloat16")  # with labels that are smoothed in the loss
    half.compile(keras.optimizers.SGD(0.1))
    for given in (weights, full):
        model = make()
        model.compile(keras.optimizers.SGD(0.1))
        losses.append(trained(model, inputs, labels, given))
    assert losses[0] == losses[1]
    assert trained(half, inputs, labels, weights) == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("name", ["BertTokenClassifier", "RecurrentLM", "Seq2SeqLM"])
def test_weights_of_rows_weigh_all_their_tokens_in_the_losses_and_metrics_of_keras(name):
    """Keras alone multiplies a weight (batch, 1) by the length, and fails for one of (batch,)."""
    make, inputs, labels = MODELS[name]
    weights = np.array([0.0, 1.0, 5.0, 2.0], "float32")
    histories = []
    for given in (np.repeat(weights[:, None], labels.shape[1], axis=1), weights, weights[:, None]):
        model = make()
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        metric = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="metric")
        model.compile(keras.optimizers.SGD(0.1), loss=loss, weighted_metrics=[metric])
        histories.append(
            model.fit(inputs, labels, sample_weight=given, epochs=2, shuffle=False, verbose=0).history
        )
    whole, *others = histories
    assert whole["loss"] == pytest.approx(whole["metric"], rel=1e-5)
    for other in others:
        assert other["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert other["metric"] == pytest.approx(whole["metric"], rel=1e-6)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 9)])
def test_weights_of_rows_are_spread_over_labels_of_any_form(shape):
    weights = np.array([0.0, 1.0, 5.0, 2.0], "float32")
    predictions = np.zeros((4, 6, 9), "float32")
    labels = {"tokens": np.zeros(shape), "row": np.zeros((4,))}
    outputs = {"tokens": predictions, "row": np.zeros((4, 2))}
    for given in (weights, weights[:, None]):
        spread = spread_over_labels(given, labels, outputs)
        np.testing.assert_array_equal(values(spread["tokens"]), np.repeat(weights[:, None], 6, axis=1))
        np.testing.assert_array_equal(spread["row"], given)
        alone = spread_over_labels({"tokens": given}, labels, outputs)
        np.testing.assert_array_equal(values(alone["tokens"]), values(spread["tokens"]))
        assert list(alone) == ["tokens"]


@pytest.mark.parametrize("name", MODELS)
def test_ids_as_floats_out_of_range_and_in_wrong_shapes(name):
    make, inputs, _ = MODELS[name]
    key = next(iter(inputs))
    model = make(dtype="mixed_bfloat16")
    floats = {each: value.astype("float32") if "ids" in each else value for each, value in inputs.items()}
    np.testing.assert_array_equal(values(model(floats)), values(model(inputs)))  # bfloat16 has no 257
    for wrong, message in (
        (np.full_like(IDS, 300), f"{key} holds 300"),
        (np.full_like(IDS, -1), f"{key} holds -1"),
        (IDS[0], rf"{key} of shape \(6,\)"),
        (IDS[:, :4], rf"and {key} of shape \(4, 4\)"),
    ):
        with pytest.raises(InputError, match=message):
            model.predict(inputs | {key: wrong}, verbose=0)
