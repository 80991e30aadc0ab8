"""Broken and hostile checkpoints: one clear message, before a model is made and without running anything.

Each case damages a good checkpoint of a classifier. `refused` also fails if a model is begun, which is where memory
would be taken: what a file declares is compared with what it holds before that.
"""

import json
import pickle
import struct
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kerasllm import BertBackbone, BertClassifier, BertConfig, GPTCausalLM, GPTConfig
from kerasllm.errors import InputError
from kerasllm.models.base import LanguageModel
from kerasllm.models.registry import check_checkpoint

SHAPE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 10}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
TOKENS = "bert.embeddings.word_embeddings.weight"
ABSURD = 10**12


@pytest.fixture
def model(tmp_path):
    BertClassifier(BertConfig(vocabulary_size=20, **SHAPE), num_classes=3, seed=1).save_pretrained(
        tmp_path / "model"
    )
    return tmp_path / "model"


@pytest.fixture
def refused(monkeypatch):
    """The one line that a class says of a directory, model or no model having been begun."""

    def begin(*arguments, **settings):
        pytest.fail("a model was begun")

    def refused(directory, cls=BertClassifier, **settings):
        monkeypatch.setattr(LanguageModel, "__init__", begin)
        with pytest.raises(InputError) as error:
            cls.from_pretrained(directory, **settings)
        message = str(error.value)
        assert "\n" not in message and len(message.replace(str(directory), "")) < 400
        return message

    return refused


def cut(count):
    return lambda path: (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:count])


def header(content):
    """A file whose header is text of our own, with its length."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda path: (path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)


def tensors(change):
    def damage(path):
        found = change(load_file(path / WEIGHTS))
        (path / WEIGHTS).unlink()
        save_file(found, path / WEIGHTS)

    return damage


def without(part):
    return tensors(lambda found: {name: value for name, value in found.items() if part not in name})


def config(**changes):
    def damage(path):
        settings = json.loads((path / "config.json").read_text()) | changes
        left = {name: value for name, value in settings.items() if value is not ...}
        (path / "config.json").write_text(json.dumps(left))

    return damage


def config_text(text):
    return lambda path: (path / "config.json").write_text(text)


def both(*damages):
    return lambda path: [damage(path) for damage in damages]


def index(content):
    """Shards in place of the one file, as the index tells."""

    def damage(path):
        (path / WEIGHTS).rename(path / "model-00001-of-00001.safetensors")
        if callable(content):
            names = load_file(path / "model-00001-of-00001.safetensors")
            written = {"weight_map": {name: content(name) for name in names}}
        else:
            written = content
        (path / INDEX).write_text(json.dumps(written))

    return damage


class Payload:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def only_pickle(path):
    (path / WEIGHTS).unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(path / "ran")))


def pickle_as_shard(path):
    index(lambda name: "pytorch_model.bin")(path)
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(path / "ran")))


def pickle_as_weights(path):
    (path / WEIGHTS).write_bytes(pickle.dumps(Payload(path / "ran")))


F8 = {"__metadata__": {}, TOKENS: {"dtype": "F99", "shape": [1], "data_offsets": [0, 1]}}
OVERLAP = {"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 4]}}
SHARD = "model-00001-of-00001.safetensors"

HOSTILE = {
    "an empty file": (cut(0), "not a readable safetensors file"),
    "cut in the header's length": (cut(5), "not a readable safetensors file"),
    "cut in the header": (cut(500), "not a readable safetensors file"),
    "cut in the values": (cut(-100), "not a readable safetensors file"),
    "an absurd header's length": (
        lambda path: (path / WEIGHTS).write_bytes(b"\xff" * 7 + b"\x7f" + b"{}"),
        "not a readable safetensors file",
    ),
    "a header that is no JSON": (header(b"{'a': 1}"), "not a readable safetensors file"),
    "a header of nested lists": (header(b"[" * 50_000), "not a readable safetensors file"),
    "a number that is none": (header(F8), "not a readable safetensors file"),
    "a shape that overflows": (header(OVERLAP), "not a readable safetensors file"),
    "no file": (lambda path: (path / WEIGHTS).unlink(), "holds no model.safetensors and no"),
    "no tensors": (header({}), "config.json says 2 layers, the weights hold 0 tensors"),
    "a wrong shape": (
        tensors(lambda found: found | {QUERY: np.zeros((3, 8), "float32")}),
        "query.weight has shape (3, 8), config.json says (8, 8)",
    ),
    "a wrong number of axes": (
        tensors(lambda found: found | {QUERY: np.zeros(64, "float32")}),
        "query.weight has shape (64,), config.json says (8, 8)",
    ),
    "whole numbers": (
        tensors(lambda found: found | {QUERY: np.zeros((8, 8), "int8")}),
        "query.weight holds I8, weights are F64, F32, F16, BF16",
    ),
    "truths": (tensors(lambda found: found | {TOKENS: np.zeros((20, 8), "bool")}), "weight holds BOOL"),
    "a layer's weight is missing": (
        without("layer.1.output.dense"),
        "hold no encoder.layer.1.output.dense.weight",
    ),
    "the embeddings are missing": (without("token_type"), "hold no embeddings.token_type_embeddings.weight"),
    "config.json is missing": (lambda path: (path / "config.json").unlink(), "holds no config.json"),
    "config.json is cut": (config_text('{"model_type": "bert",'), "config.json:1: not JSON"),
    "config.json is a list": (config_text("[]"), "holds no JSON object but a list"),
    "config.json is nested": (config_text("[" * 100_000), "config.json: cannot be read"),
    "config.json is binary": (lambda path: (path / "config.json").write_bytes(b"\xff\xfe"), "cannot be read"),
    "config.json has a huge number": (
        config_text('{"vocab_size": 1' + "0" * 5000 + "}"),
        "config.json: cannot be read",
    ),
    "no vocabulary": (config(vocab_size=...), "config.json: lacks vocab_size"),
    "a null for a size": (config(hidden_size=None), "config.json: lacks hidden_size"),
    "nothing known": (config(model_type=...), "model_type is None"),
    "another family": (config(model_type="t5"), "model_type is 't5'"),
    "an absurd vocabulary": (config(vocab_size=ABSURD), "config.json says (1000000000000, 8)"),
    "absurd positions": (config(max_position_embeddings=ABSURD), "config.json says (1000000000000, 8)"),
    "absurd segments": (config(type_vocab_size=ABSURD), "config.json says (1000000000000, 8)"),
    "an absurd width": (config(hidden_size=ABSURD), "config.json says (20, 1000000000000)"),
    "an absurd inner width": (config(intermediate_size=ABSURD), "config.json says (1000000000000, 8)"),
    "absurdly many layers": (config(num_hidden_layers=10**9), "says 1000000000 layers, the weights hold"),
    "absurd labels": (
        config(id2label=..., num_labels=ABSURD),
        "says 1000000000000 labels, and classifier.weight has 3",
    ),
    "absurd labels of no head": (
        both(without("classifier"), config(id2label=..., num_labels=ABSURD)),
        "num_labels is 1000000000000: a classifier has at least 2",
    ),
    "absurd segments without a table": (
        both(without("token_type"), config(type_vocab_size=ABSURD)),
        "hold no embeddings.token_type_embeddings.weight",
    ),
    "a negative size": (config(vocab_size=-1), "vocab_size is -1"),
    "a size that is text": (config(num_attention_heads="two"), "num_attention_heads is 'two'"),
    "a path upwards": (index(lambda name: f"../{SHARD}"), "a shard is '../model-00001-of-00001.safetensors'"),
    "an absolute path": (index(lambda name: "/etc/passwd"), "a shard is '/etc/passwd'"),
    "a path of another system": (index(lambda name: f"..\\{SHARD}"), "no path"),
    "a path with a null": (index(lambda name: f"a\0{SHARD}"), "no path"),
    "a shard that is a number": (index(lambda name: 3), "a shard is '3'"),
    "a shard that is missing": (
        index(lambda name: "gone.safetensors"),
        "gone.safetensors: there is no such file",
    ),
    "a shard of too long a name": (index(lambda name: "a" * 5000 + ".safetensors"), "there is no such file"),
    "an index of no map": (index({"weight_map": [SHARD]}), "holds no weight_map"),
    "an index of nothing": (index({}), "holds no weight_map"),
    "an index that promises more": (
        index({"weight_map": {"mo\nre": SHARD}}),
        "'mo\\nre' is not in model-00001-of-00001",
    ),
    "a pickle alone": (only_pickle, "pytorch_model.bin is a pickle and is never read"),
    "a pickle as a shard": (pickle_as_shard, "a shard is 'pytorch_model.bin'"),
    "a pickle by another name": (pickle_as_weights, "not a readable safetensors file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(case, model, refused):
    damage, expected = HOSTILE[case]
    damage(model)
    message = refused(model)
    assert expected in message, message
    assert not (model / "ran").exists()


@pytest.mark.parametrize(
    "case", [name for name in HOSTILE if "labels" not in name and "vocabulary" not in name]
)
def test_looked_over_alike_without_a_model(case, model):
    """As the recipes do before anything slow."""
    HOSTILE[case][0](model)
    with pytest.raises(InputError):
        check_checkpoint(model, BertConfig)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_layer": 10**9}, "says 1000000000 layers"),
        ({"n_positions": ABSURD}, "config.json says (1000000000000, 8)"),
        ({"vocab_size": ABSURD}, "config.json says (1000000000000, 8)"),
        ({"n_inner": ABSURD}, "config.json says (8, 1000000000000)"),
    ],
)
def test_absurd_gpts(changes, expected, tmp_path, refused):
    GPTCausalLM(GPTConfig(vocabulary_size=20, **SHAPE), seed=1).save_pretrained(tmp_path)
    config(**changes)(tmp_path)
    assert expected in refused(tmp_path, GPTCausalLM)


def test_absurd_shapes_of_our_own(tmp_path, refused):
    """The family whose tables depend on its options."""
    shape = GPTConfig(vocabulary_size=20, positions="rotary", **SHAPE)
    GPTCausalLM(shape, seed=1).save_pretrained(tmp_path)
    config(positions="learned", max_sequence_length=ABSURD)(tmp_path)
    assert "hold no embeddings.position" in refused(tmp_path, GPTCausalLM)


def test_code_named_in_a_config_is_never_followed(model):
    """`auto_map` names classes of a Python file beside it, or of another repository."""
    (model / "modeling.py").write_text(f"open({str(model / 'ran')!r}, 'w')")
    config(
        auto_map={"AutoModel": "modeling.Model", "AutoConfig": "evil/repo--modeling.Config"},
        custom_pipelines={"x": {"impl": "modeling.Model"}},
        trust_remote_code=True,
    )(model)
    plain = BertClassifier.from_pretrained(model)
    assert type(plain) is BertClassifier
    assert not (model / "ran").exists()


def test_a_keras_file_with_a_lambda(tmp_path, refused):
    """It is no checkpoint here, and Keras, which reads such files, is left in its safe mode."""
    path, ran = tmp_path / "model.keras", str(tmp_path / "ran")
    inputs = keras.Input((3,))
    outputs = keras.layers.Lambda(lambda x: open(ran, "w").close() or x)(inputs)
    keras.Model(inputs, outputs).save(path)
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"[Ll]ambda"):
        keras.saving.load_model(path)
    message = refused(path, BertBackbone)
    assert "model.keras: is a file, where a directory with config.json is wanted" in message
    assert not (tmp_path / "ran").exists()


def test_a_path_that_leads_nowhere(tmp_path, refused):
    for source in (tmp_path / "nowhere", "./nowhere", "a/b/c", "..\\up"):
        assert "there is no such directory" in refused(source)
    (tmp_path / "empty").mkdir()
    assert "holds no config.json and no model/config.json" in refused(tmp_path / "empty")


def changed(name, change):
    return tensors(lambda found: found | {name: change(found[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed("classifier.bias", lambda bias: np.zeros(7, "float32")), "classifier.bias has shape (7,)"),
        (
            changed("classifier.weight", lambda kernel: np.zeros((3, 9), "float32")),
            "has shape (3, 9), config",
        ),
        (
            changed("classifier.weight", lambda kernel: kernel[:, 0].copy()),
            "classifier.weight has shape (3,)",
        ),
        (changed(TOKENS, lambda table: np.where(table == table.max(), np.nan, table)), "not finite"),
        (changed(TOKENS, lambda table: table.astype("float64") + 1e300), "not finite"),
        (
            tensors(lambda found: found | {"bert.embeddings.LayerNorm.gamma": np.ones(8, "float32")}),
            "LayerNorm.gamma and bert.embeddings.LayerNorm.weight, which are one",
        ),
    ],
    ids=["bias", "width", "axes", "NaN", "too large", "two names"],
)
def test_what_becomes_no_prediction(damage, message, model):
    """Found in the tensors themselves, or as soon as the class is known."""
    damage(model)
    with pytest.raises(InputError) as error:
        BertClassifier.from_pretrained(model)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_eps": 10**400}, "layer_norm_eps is 1000"),
        ({"pad_token_id": "abc"}, "pad_token_id is 'abc', it must be a token's number"),
        ({"pad_token_id": -5}, "pad_token_id is -5"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label: 'a' occurs twice"),
        ({"id2label": {"0": None, "1": {}, "2": []}}, "id2label: None is no name"),
    ],
)
def test_settings_of_a_bert_that_are_none(changes, message, model, refused):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert message in refused(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token_id": 10**12}, "eos_token_id is 1000000000000, it must be a token's number"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id is 'x'"),
        ({"rope_theta": 10**400, "rope_parameters": None}, "rope_theta is 1000"),
        ({"rope_theta": 0, "rope_parameters": None}, "rope_theta is 0, it must be a number above 0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": float("nan")}}, "rope_theta is nan"),
        ({"rope_parameters": "x"}, "rope_parameters is 'x', it must be an object"),
        ({"max_position_embeddings": 10**12}, "no text is as long as that"),
    ],
)
def test_settings_of_a_llama_that_are_none(changes, message, tmp_path, refused):
    shape = {"positions": "rotary", "normalization": "rms_norm", "feed_forward": "gated", "use_bias": False}
    GPTCausalLM(GPTConfig(vocabulary_size=20, **SHAPE, **shape), seed=1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    assert json.loads(path.read_text())["model_type"] == "llama"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert message in refused(tmp_path, GPTCausalLM)


def test_a_key_that_occurs_twice(model, refused):
    path = model / "config.json"
    path.write_text(path.read_text().replace("{", '{"hidden_act": "relu", ', 1))
    assert "the key 'hidden_act' occurs twice" in refused(model)


def test_a_directory_of_this_machine_has_no_revisions(model, refused):
    assert "has no revision 'main'; leave it out" in refused(model, revision="main")


def test_a_file_in_the_place_of_a_directory(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        BertBackbone(BertConfig(vocabulary_size=20, **SHAPE)).save_pretrained(tmp_path / "model")
