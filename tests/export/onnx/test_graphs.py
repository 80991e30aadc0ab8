"""Each class through onnxruntime beside the model itself: batches, lengths, padding, caches, greedy texts."""

import keras
import numpy as np
import onnx
import pytest

import kerasllm
from kerasllm import BertConfig, GPTConfig, Seq2SeqConfig, Seq2SeqLM
from kerasllm.errors import InputError
from kerasllm.export.onnx.exporters import ExportedModel, exporter_of
from kerasllm.export.onnx.files import write_graph
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.export.samples import real_outputs

SIZES = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 24}
BERT = BertConfig(**SIZES)
UNTIED = BertConfig(**SIZES, tie_embeddings=False)
HEADS = {
    "backbone": lambda: kerasllm.BertBackbone(BERT),
    "backbone without pooler": lambda: kerasllm.BertBackbone(BERT, pooler=False),
    "classifier": lambda: kerasllm.BertClassifier(BERT, num_classes=3),
    "multi-label": lambda: kerasllm.BertClassifier(BERT, num_classes=3, multi_label=True),
    "regressor": lambda: kerasllm.BertRegressor(BERT),
    "token classifier": lambda: kerasllm.BertTokenClassifier(BERT, num_classes=4),
    "question answering": lambda: kerasllm.BertQuestionAnswering(BERT),
    "masked LM": lambda: kerasllm.BertMaskedLM(BERT),
    "untied masked LM": lambda: kerasllm.BertMaskedLM(UNTIED),
    "pretraining": lambda: kerasllm.BertPretraining(BERT),
    "next sentence": lambda: kerasllm.BertPretraining(BERT, objectives=("next_sentence",)),
    "mean": lambda: kerasllm.BertEncoder(BERT),
    "cls": lambda: kerasllm.BertEncoder(BERT, pooling="cls", projection_dim=8, projection_activation="tanh"),
    "max": lambda: kerasllm.BertEncoder(BERT, pooling="max", normalize=False),
}
NAMES = {
    "backbone": {"last_hidden_state", "pooler_output"},
    "classifier": {"logits"},
    "question answering": {"start_logits", "end_logits"},
    "pretraining": {"prediction_logits", "seq_relationship_logits"},
    "mean": {"last_hidden_state", "sentence_embedding"},
}


def exported(model, directory, **settings):
    graphs = exporter_of(model).graphs(model)
    for name, graph in graphs.items():
        write_graph(graph, directory / f"{name}.onnx", **settings)
    return ExportedModel(model, Sessions(directory, list(graphs)))


def check(copy, model, inputs, mask):
    """The copy's outputs are those of the model, at real tokens."""
    expected = keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, training=False))
    pairs = list(real_outputs(copy.predict_on_batch(inputs), expected, mask))
    assert pairs
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def padded(rows, length, seed=0):
    """Tokens, segments, and a mask with padding after the tokens of each row but the first."""
    random = np.random.default_rng(seed)
    mask = (np.arange(length)[None] < length - 2 * np.arange(rows)[:, None]).astype(np.int32)
    token_ids = random.integers(0, 50, (rows, length)).astype(np.int32)
    return {"token_ids": token_ids, "segment_ids": (token_ids % 2).astype(np.int32), "padding_mask": mask}


@pytest.mark.parametrize("name", HEADS)
def test_bert(name, tmp_path, with_weights):
    model = with_weights(HEADS[name]())
    copy = exported(model, tmp_path)
    for rows, length in ((3, 9), (1, 24)):
        inputs = padded(rows, length)
        check(copy, model, inputs, inputs["padding_mask"])
    file = onnx.load(tmp_path / "model.onnx")
    assert [each.name for each in file.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {each.type.tensor_type.elem_type for each in file.graph.input} == {onnx.TensorProto.INT64}
    assert {each.name for each in file.graph.output} == NAMES.get(
        name, {each.name for each in file.graph.output}
    )
    assert {each.domain: each.version for each in file.opset_import} == {"": 20}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalization": "rms_norm", "positions": "rotary", "feed_forward": "gated", "activation": "silu"}
        | {"use_bias": False, "num_key_value_heads": 1, "tie_embeddings": False},
        {"normalization": "rms_norm", "activation": "gelu", "num_key_value_heads": 1},
        {"positions": "rotary", "feed_forward": "gated", "activation": "relu", "use_bias": False},
    ],
    ids=["GPT-2", "Llama", "between", "other"],
)
def test_gpt(settings, tmp_path, with_weights):
    """Rows with padding before them, whose last tokens are computed with the keys and values of the others."""
    model = with_weights(kerasllm.GPTCausalLM(GPTConfig(**SIZES, **settings)))
    copy = exported(model, tmp_path)
    mask = (np.arange(9)[None] >= np.array([[0], [4], [7]])).astype(np.int32)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    inputs = {"token_ids": padded(3, 9)["token_ids"], "padding_mask": mask, "position_ids": positions}
    check(copy, model, inputs, mask)
    names = [each.name for each in onnx.load(tmp_path / "model.onnx").graph.output]
    assert names[:3] == ["logits", "present.0.key", "present.0.value"]


def test_greedy_text_is_the_models(tmp_path, with_weights):
    model = with_weights(kerasllm.GPTCausalLM(GPTConfig(**SIZES)))
    sessions = exported(model, tmp_path)._sessions
    prompt = [3, 1, 4, 1, 5]
    expected = model.generate([prompt], max_new_tokens=12, stop_token_ids=[])[0]
    past = {
        f"past_key_values.{i}.{part}": np.zeros((1, 2, 0, 8)) for i in range(2) for part in ("key", "value")
    }
    tokens, new = list(prompt), prompt
    while len(tokens) < len(expected):
        columns = np.arange(len(tokens) - len(new), len(tokens))[None]
        inputs = {
            "input_ids": np.array([new]),
            "attention_mask": np.ones((1, len(tokens))),
            "position_ids": columns,
        }
        found = sessions.run("model", inputs | past)
        new = [int(found["logits"][0, -1].argmax())]
        tokens += new
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
    assert tokens == list(expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "normalize_first": True,
            "normalization": "rms_norm",
            "positions": "learned",
            "feed_forward": "gated",
        }
        | {"activation": "silu", "tie_embeddings": False, "scale_embedding": False, "num_decoder_layers": 1},
    ],
    ids=["Marian", "other"],
)
def test_seq2seq(settings, tmp_path, with_weights):
    model = with_weights(Seq2SeqLM(Seq2SeqConfig(**SIZES, **settings)))
    copy = exported(model, tmp_path)
    source, target = padded(3, 7), padded(3, 6, seed=1)["token_ids"]
    target[:, 0] = model.config.pad_token_id
    inputs = {
        "encoder_token_ids": np.where(source["padding_mask"], source["token_ids"], 49),
        "encoder_padding_mask": source["padding_mask"],
        "decoder_token_ids": target,
    }
    check(copy, model, inputs, None)
    names = [each.name for each in onnx.load(tmp_path / "decoder_model_merged.onnx").graph.input]
    assert names[:4] == [
        "encoder_attention_mask",
        "input_ids",
        "encoder_hidden_states",
        "past_key_values.0.decoder.key",
    ]
    assert names[-1] == "use_cache_branch"


def test_large_weights_lie_beside_the_file(tmp_path, with_weights):
    model = with_weights(HEADS["classifier"]())
    copy = exported(model, tmp_path, largest=10_000)
    assert (tmp_path / "model.onnx").stat().st_size < (tmp_path / "model.onnx_data").stat().st_size
    inputs = padded(3, 9)
    check(copy, model, inputs, inputs["padding_mask"])


def test_what_cannot_be_written_is_named():
    with pytest.raises(InputError, match="activation 'elu' cannot be written to ONNX"):
        config = BertConfig(**SIZES, activation="elu")
        exporter_of(kerasllm.BertMaskedLM(config)).graphs(kerasllm.BertMaskedLM(config))
    with pytest.raises(InputError, match="a Seq2SeqBackbone cannot be written to ONNX"):
        exporter_of(kerasllm.Seq2SeqBackbone(Seq2SeqConfig(**SIZES)))
