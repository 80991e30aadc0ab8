"""BERT in Hugging Face's format: every form its files come in, config.json whole, and what is written."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kerasllm import (
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
    GPTCausalLM,
    GPTConfig,
)
from kerasllm.errors import InputError, InputWarning
from kerasllm.models.registry import read_settings
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece

CONFIG = BertConfig(
    vocabulary_size=30,
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=20,
    max_sequence_length=12,
    num_segments=3,
    dropout=0.2,
    attention_dropout=0.3,
    classifier_dropout=0.4,
    activation="gelu_tanh",
    layer_norm_epsilon=1e-6,
    initializer_range=0.05,
    pad_token_id=4,
)
UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False)
CLASSES = {
    "backbone": (BertBackbone, {}),
    "no_pooler": (BertBackbone, {"pooler": False}),
    "pretraining": (BertPretraining, {}),
    "masked_lm": (BertMaskedLM, {}),
    "classifier": (BertClassifier, {"label_names": ["no", "maybe", "yes"]}),
    "multi_label": (BertClassifier, {"num_classes": 3, "multi_label": True}),
    "regressor": (BertRegressor, {}),
}


@pytest.fixture
def pretraining(tmp_path):
    BertPretraining(CONFIG, seed=1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", CLASSES)
def test_there_and_back(name, tied, weights, tmp_path):
    cls, settings = CLASSES[name]
    model = cls(CONFIG if tied else UNTIED, seed=3, **settings)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert again.config == model.config
    assert getattr(again, "multi_label", None) == getattr(model, "multi_label", None)
    ours, theirs = weights(model), weights(again)
    assert ours.keys() == theirs.keys()
    assert all(value.tobytes() == theirs[key].tobytes() for key, value in ours.items())
    again.save_pretrained(tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def renamed(tensors, *pairs):
    found = {}
    for name, value in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = value
    return found


def with_buffers(tensors):
    buffer = {"bert.embeddings.position_ids": np.arange(12)[None]}
    table = {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].copy()}
    return tensors | buffer | table | {"cls.predictions.decoder.bias": tensors["cls.predictions.bias"].copy()}


FORMS = {
    "no prefix": lambda tensors: renamed(tensors, ("bert.", "")),
    "gamma and beta": lambda tensors: renamed(
        tensors, ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")
    ),
    "buffers and copies": with_buffers,
    "the decoder's bias": lambda tensors: renamed(
        tensors, ("cls.predictions.bias", "cls.predictions.decoder.bias")
    ),
    "float64": lambda tensors: {name: value.astype("float64") for name, value in tensors.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(form, pretraining, weights, edit_tensors):
    """A warning would be an error."""
    edit_tensors(pretraining, FORMS[form])
    expected = weights(BertPretraining(CONFIG, seed=1))
    for name, value in weights(BertPretraining.from_pretrained(pretraining)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("number", ["float16", ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision(number, pretraining, weights, edit_tensors):
    edit_tensors(pretraining, lambda tensors: {name: value.astype(number) for name, value in tensors.items()})
    found = weights(BertPretraining.from_pretrained(pretraining))
    for name, value in weights(BertPretraining(CONFIG, seed=1)).items():
        np.testing.assert_array_equal(found[name], value.astype(number).astype("float32"), err_msg=name)


def test_heads_that_are_missing_or_too_many_are_named(pretraining, weights):
    with pytest.warns(InputWarning) as caught:
        model = BertClassifier.from_pretrained(pretraining, num_classes=3, seed=7)
    (line,) = (str(one.message) for one in caught)
    assert "new, with initial values: classifier; not used of the checkpoint: cls.predictions, " in line
    assert "cls.seq_relationship" in line and "\n" not in line
    fresh, found = weights(BertClassifier(CONFIG, num_classes=3, seed=7)), weights(model)
    assert np.ptp(found["classifier/kernel"]) > 0
    np.testing.assert_array_equal(found["classifier/kernel"], fresh["classifier/kernel"])
    expected = weights(BertPretraining(CONFIG, seed=1))
    shared = expected.keys() & found.keys()
    assert len(shared) > 20 and all(np.array_equal(expected[name], found[name]) for name in shared)


def test_surplus_alone_is_listed(pretraining, edit_tensors):
    with pytest.warns(InputWarning, match=r"not used of the checkpoint: cls\.predictions, .*cls\.seq_rel"):
        BertBackbone.from_pretrained(pretraining)
    edit_tensors(pretraining, lambda tensors: tensors | {"adapter.scale": np.ones(2, "float32")})
    with pytest.warns(InputWarning, match=r"not used of the checkpoint: adapter$"):
        BertPretraining.from_pretrained(pretraining)


def test_layers_beyond_the_config_are_listed(pretraining, edit_config):
    edit_config(pretraining, num_hidden_layers=1)
    with pytest.warns(InputWarning, match=r"not used .*encoder\.layer\.1\.attention\.output\.dense"):
        assert BertPretraining.from_pretrained(pretraining).config.num_layers == 1


def test_an_old_head_gives_way_to_one_of_another_size(tmp_path):
    BertClassifier(CONFIG, num_classes=3, seed=1).save_pretrained(tmp_path)
    with pytest.warns(
        InputWarning, match="initial values: classifier; not used of the checkpoint: classifier"
    ):
        assert BertClassifier.from_pretrained(tmp_path, num_classes=5).num_classes == 5
    with pytest.warns(InputWarning, match="initial values: classifier"):
        BertRegressor.from_pretrained(tmp_path)


def test_labels_go_there_and_back(tmp_path):
    model = BertClassifier(CONFIG, label_names=["no", "maybe", "yes"], seed=1)
    model.save_pretrained(tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert settings["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert settings["label2id"] == {"no": 0, "maybe": 1, "yes": 2}
    again = BertClassifier.from_pretrained(tmp_path / "model")
    assert again.label_names == ("no", "maybe", "yes") and again.num_classes == 3
    other = BertClassifier.from_pretrained(tmp_path / "model", label_names=["x", "y", "z"])
    assert other.label_names == ("x", "y", "z")
    with pytest.raises(ValueError, match="label_names are 3, num_classes is 2"):
        BertClassifier(CONFIG, label_names=["no", "maybe", "yes"], num_classes=2)


def test_settings_left_out_mean_what_they_mean_there(tmp_path):
    """The defaults of transformers' BertConfig, some of which depend on nothing where ours do."""
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"model_type": "bert", "vocab_size": 9, "hidden_size": 24, "num_hidden_layers": 1})
    )
    expected = BertConfig(
        vocabulary_size=9, hidden_dim=24, num_layers=1, num_heads=12, intermediate_dim=3072, dropout=0.1
    )
    assert read_settings(tmp_path)[0] == expected
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"hidden_dropout_prob": 0.0, "classifier_dropout": None})
    )
    found = read_settings(tmp_path)[0]
    assert (found.dropout, found.attention_dropout, found.classifier_dropout) == (0.0, 0.1, None)


def test_the_classifiers_dropout_is_its_own(tmp_path):
    assert BertClassifier(CONFIG, seed=1).classifier.dropout == 0.4
    assert BertClassifier(dataclasses.replace(CONFIG, classifier_dropout=None)).classifier.dropout == 0.2
    BertClassifier(CONFIG, seed=1).save_pretrained(tmp_path)
    assert BertClassifier.from_pretrained(tmp_path).classifier.dropout == 0.4
    assert BertClassifier.from_pretrained(tmp_path, dropout=0.0).classifier.dropout == 0.0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True, only False"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is "),
        ({"hidden_act": "mish"}, "hidden_act is 'mish', known are gelu, "),
        ({"hidden_act": ["gelu"]}, "hidden_act is \\['gelu'\\]"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps is inf"),
        ({"classifier_dropout": 1.0}, "classifier_dropout is 1.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ({"problem_type": "regression"}, "BertRegressor reads it"),
        ({"id2label": ["a", "b"]}, "id2label is "),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is "),
        ({"id2label": {"0": "a", "1": "b"}}, "says 2 labels, and classifier.weight has 3"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(changes, fault, tmp_path, edit_config):
    BertClassifier(CONFIG, num_classes=3, seed=1).save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(InputError, match=fault) as refused:
        BertClassifier.from_pretrained(tmp_path)
    assert "\n" not in str(refused.value) and "config.json" in str(refused.value)


def test_a_regression_of_several_numbers_is_refused(tmp_path, edit_config):
    BertClassifier(CONFIG, num_classes=3, seed=1).save_pretrained(tmp_path)
    edit_config(tmp_path, problem_type="regression")
    with pytest.raises(InputError, match="regression of several numbers"):
        BertRegressor.from_pretrained(tmp_path)


def test_shards(pretraining, weights, tmp_path):
    """Written above a size, read through their index; the files of the division before do not stay."""
    model = BertPretraining(CONFIG, seed=2)
    model.save_pretrained(pretraining, max_shard_size="2KB")
    files = sorted(path.name for path in pretraining.glob("*.safetensors"))
    assert len(files) > 3 and "model.safetensors" not in files
    index = json.loads((pretraining / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    held = {name: load_file(pretraining / name) for name in files}
    assert all(name in held[file] for name, file in index["weight_map"].items())
    assert index["metadata"]["total_size"] == sum(v.nbytes for part in held.values() for v in part.values())
    assert max(sum(v.nbytes for v in part.values()) for part in held.values() if len(part) > 1) <= 2000
    again = weights(BertPretraining.from_pretrained(pretraining))
    assert all(np.array_equal(value, again[name]) for name, value in weights(model).items())
    model.save_pretrained(pretraining, max_shard_size="3KB")
    assert 1 < len(list(pretraining.glob("*.safetensors"))) < len(files)
    model.save_pretrained(pretraining)
    assert sorted(path.name for path in pretraining.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    with pytest.raises(InputError, match="max_shard_size is '2 bits'"):
        model.save_pretrained(pretraining, max_shard_size="2 bits")


def test_parts_of_a_large_table(weights, monkeypatch, tmp_path):
    """Tables are read some rows at a time, whatever does not fit into one part."""
    from kerasllm.checkpoints.weights import WeightFiles

    model = BertBackbone(CONFIG, seed=5)
    model.save_pretrained(tmp_path)
    files, name = WeightFiles(tmp_path), "embeddings.word_embeddings.weight"
    parts = list(files.parts(name, 7 * 8 * 4))
    assert [len(part) for part in parts] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(parts), files.read(name))
    monkeypatch.setattr(WeightFiles.parts, "__defaults__", (7 * 8 * 4,))
    found = weights(BertBackbone.from_pretrained(tmp_path))
    assert all(np.array_equal(value, found[name]) for name, value in weights(model).items())


def test_tokenizer_and_card(tmp_path):
    tokenizer = train_wordpiece(["the cat sat on the mat"] * 9, 40)
    model = BertClassifier(CONFIG, label_names=["no", "yes"], seed=1)
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 12
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert "BertClassifier.from_pretrained" in card and "AutoModelForSequenceClassification" in card
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_one_objective_is_what_it_says(tmp_path):
    """transformers would miss the other head of a BertForPreTraining."""
    for objective, architecture in (("masked_lm", "MaskedLM"), ("next_sentence", "NextSentencePrediction")):
        BertPretraining(CONFIG, objectives=[objective], seed=1).save_pretrained(tmp_path)
        settings = json.loads((tmp_path / "config.json").read_text())
        assert settings["architectures"] == [f"BertFor{architecture}"]
        BertPretraining.from_pretrained(tmp_path, objectives=[objective])


def test_wordpiece_of_vocab_txt_serves_a_model(pretraining):
    (pretraining / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s"])
    )
    assert load_tokenizer(pretraining).encode("cats").tokens == ["[CLS]", "cat", "##s", "[SEP]"]


def test_a_run_and_an_index_beside_other_shards(pretraining, weights, tmp_path):
    """What an index does not name is not read."""
    tensors = load_file(pretraining / "model.safetensors")
    shutil.copytree(pretraining, tmp_path / "run" / "model")
    place = tmp_path / "run" / "model"
    (place / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in halves.items():
        wrong = {name: np.zeros_like(tensors[name]) for name in names if name not in held}
        save_file({name: tensors[name] for name in held} | wrong, place / file)
    places = {name: file for file, held in halves.items() for name in held}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found = weights(BertPretraining.from_pretrained(tmp_path / "run"))
    expected = weights(BertPretraining(CONFIG, seed=1))
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize("same", [True, False], ids=["same", "another"])
def test_a_projection_that_is_stored_though_tied(same, pretraining, weights, edit_tensors):
    """What is not the embedding stays what it is; what is, stays tied."""
    name = "cls.predictions.decoder.weight"

    def with_projection(tensors):
        table = tensors["bert.embeddings.word_embeddings.weight"]
        return tensors | {name: table.copy() if same else table + 1}

    edit_tensors(pretraining, with_projection)
    model = BertPretraining.from_pretrained(pretraining)
    assert model.config.tie_embeddings == same
    found = weights(model)
    if not same:
        np.testing.assert_array_equal(found["masked_lm_projection/kernel"], found["embeddings/token"] + 1)


def test_of_two_biases_the_projections_own_counts(pretraining, weights, edit_tensors):
    edit_tensors(
        pretraining,
        lambda tensors: tensors | {"cls.predictions.decoder.bias": tensors["cls.predictions.bias"] + 2},
    )
    found = weights(BertPretraining.from_pretrained(pretraining))
    assert found["masked_lm_head/vocabulary_bias"].min() == 2


def test_one_label_is_a_number(tmp_path, edit_config):
    BertRegressor(CONFIG, seed=1).save_pretrained(tmp_path)
    edit_config(tmp_path, problem_type=...)
    with pytest.raises(InputError, match="one label: BertRegressor reads it"):
        BertClassifier.from_pretrained(tmp_path)
    BertRegressor.from_pretrained(tmp_path)


def test_a_gpts_settings_do_not_stay_with_a_bert(tmp_path):
    GPTCausalLM(GPTConfig(vocabulary_size=30, num_layers=1, num_heads=2, hidden_dim=8)).save_pretrained(
        tmp_path
    )
    assert (tmp_path / "generation_config.json").exists()
    BertBackbone(CONFIG).save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()
