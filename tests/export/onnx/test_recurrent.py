"""Recurrent models through onnxruntime beside the models themselves."""

import itertools

import keras
import numpy as np
import pytest

from kerasllm import (
    RecurrentBackbone,
    RecurrentClassifier,
    RecurrentConfig,
    RecurrentLM,
    RecurrentSeq2SeqConfig,
    RecurrentSeq2SeqLM,
)
from kerasllm.errors import InputError
from kerasllm.export.onnx.exporters import ExportedModel, exporter_of
from kerasllm.export.onnx.files import write_graph
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings, generate_targets

SIZES = {"vocabulary_size": 30, "num_layers": 2, "hidden_dim": 8, "embedding_dim": 6}
TOKENS = np.random.default_rng(0).integers(0, 30, (3, 7)).astype(np.int32)
MASK = (np.arange(7)[None] < np.array([[7], [4], [1]])).astype(np.int32)
CELLS = [("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu")]


def exported(model, directory):
    write_graph(exporter_of(model).graphs(model)["model"], directory / "model.onnx")
    return ExportedModel(model, Sessions(directory, ["model"]))


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_language_model(cell, activation, tmp_path, with_weights):
    """At once for padded rows, and token by token with the state."""
    model = with_weights(RecurrentLM(RecurrentConfig(**SIZES, cell=cell, activation=activation)))
    copy = exported(model, tmp_path)
    inputs = {"token_ids": TOKENS, "padding_mask": MASK}
    expected = keras.ops.convert_to_numpy(model(inputs))
    np.testing.assert_allclose(copy.predict_on_batch(inputs)[MASK == 1], expected[MASK == 1], atol=1e-5)
    parts = ("hidden", "cell") if cell == "lstm" else ("hidden",)
    state = {f"past_state.{index}.{part}": np.zeros((1, 8)) for index in range(2) for part in parts}
    for column in range(7):
        step = {"input_ids": TOKENS[:1, column : column + 1], "attention_mask": np.ones((1, 1))}
        found = copy._sessions.run("model", step | state)
        np.testing.assert_allclose(found["logits"][0, 0], expected[0, column], atol=1e-5)
        state = {name: found[name.replace("past", "present")] for name in state}


@pytest.mark.parametrize(
    ("pooling", "bidirectional", "use_projection"),
    [
        case
        for case in itertools.product(("last", "mean"), (True, False), (True, False))
        if case != ("last", True, True)
    ],
)
def test_classifier(pooling, bidirectional, use_projection, tmp_path, with_weights):
    config = RecurrentConfig(**SIZES, bidirectional=bidirectional, use_projection=use_projection)
    model = with_weights(RecurrentClassifier(config, num_classes=3, pooling=pooling))
    inputs = {"token_ids": TOKENS, "padding_mask": MASK}
    expected = keras.ops.convert_to_numpy(model(inputs))
    np.testing.assert_allclose(exported(model, tmp_path).predict_on_batch(inputs), expected, atol=1e-5)


def test_backbone_and_what_cannot_be_written(tmp_path, with_weights):
    model = with_weights(RecurrentBackbone(RecurrentConfig(**SIZES, cell="gru", bidirectional=True)))
    expected = keras.ops.convert_to_numpy(model({"token_ids": TOKENS})["sequence_output"])
    found = exported(model, tmp_path).predict_on_batch({"token_ids": TOKENS})["sequence_output"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    config = RecurrentConfig(**SIZES, bidirectional=True, use_projection=True)
    with pytest.raises(InputError, match="cannot be written to ONNX"):
        exporter_of(model).graphs(RecurrentClassifier(config, pooling="last"))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_encoder_decoder(cell, tmp_path, with_weights):
    """Padded sources; targets at once, and one by one by the state, to the greedy translation of the model."""
    config = RecurrentSeq2SeqConfig(
        vocabulary_size=30, cell=cell, num_layers=2, hidden_dim=8, max_sequence_length=16
    )
    model = with_weights(RecurrentSeq2SeqLM(config))
    graphs = exporter_of(model).graphs(model)
    for name, graph in graphs.items():
        write_graph(graph, tmp_path / f"{name}.onnx")
    sessions = Sessions(tmp_path, list(graphs))
    inputs = {"encoder_token_ids": TOKENS, "encoder_padding_mask": MASK, "decoder_token_ids": TOKENS[:, :5]}
    expected = keras.ops.convert_to_numpy(model(inputs))
    found = ExportedModel(model, sessions).predict_on_batch(inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    source = {"input_ids": TOKENS[:1], "attention_mask": MASK[:1]}
    last = sessions.run("encoder_model", source)
    given = {"encoder_hidden_states": last["last_hidden_state"], "encoder_attention_mask": MASK[:1]}
    parts = ("hidden", "cell") if cell == "lstm" else ("hidden",)
    names = [f"{index}.{part}" for index in range(2) for part in parts]
    token, tokens = config.pad_token_id, []
    while len(tokens) < 8:
        state = {f"past_state.{name}": last[f"present_state.{name}"] for name in names}
        last = sessions.run("decoder_model_merged", given | state | {"input_ids": np.array([[token]])})
        logits = last["logits"][0, 0]
        logits[config.pad_token_id] = -np.inf
        token = int(logits.argmax())
        tokens.append(token)
        if token == config.end_token_id:
            break
    settings = TargetSettings(Settings(max_new_tokens=8), max_ratio=None)
    greedy = generate_targets(model, [TOKENS[0].tolist()], settings)[0][0].tokens
    assert greedy and greedy == [token for token in tokens if token != config.end_token_id]
