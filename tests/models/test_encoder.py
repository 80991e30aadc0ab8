"""The sentence encoder: pooling against NumPy, packed rows, and sentence-transformers' files, older and newer."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import BertBackbone, BertConfig, BertEncoder, RankingLoss
from kerasllm.errors import InputError, InputWarning
from kerasllm.models.registry import model_class_of, read_settings

CONFIG = BertConfig(
    vocabulary_size=30, num_layers=1, num_heads=2, hidden_dim=8, max_sequence_length=12, dropout=0.0
)
TOKENS = np.array([[2, 5, 6, 7, 3, 0], [2, 9, 3, 0, 0, 0]], np.int32)
PADDED = {"token_ids": TOKENS, "padding_mask": (TOKENS > 0).astype(np.int32)}
PACKED = {
    "token_ids": np.array([[2, 5, 6, 7, 3, 2, 9, 3, 0]], np.int32),
    "sequence_ids": np.array([[0, 0, 0, 0, 0, 1, 1, 1, -1]], np.int32),
    "position_ids": np.array([[0, 1, 2, 3, 4, 0, 1, 2, 0]], np.int32),
    "first_positions": np.array([[0, 5, 0]], np.int32),
}


@pytest.fixture(scope="module")
def backbone():
    return BertBackbone(CONFIG, pooler=False, seed=1)


def vectors(model, inputs):
    return keras.tree.map_structure(ops.convert_to_numpy, model(inputs))


def test_pooling_is_over_the_real_tokens(backbone):
    hidden = vectors(backbone, PADDED)["sequence_output"]
    rows = [hidden[0, :5], hidden[1, :3]]
    expected = {
        "mean": [row.mean(axis=0) for row in rows],
        "cls": [row[0] for row in rows],
        "max": [row.max(axis=0) for row in rows],
    }
    for pooling, wanted in expected.items():
        model = BertEncoder(CONFIG, pooling=pooling, normalize=False, backbone=backbone)
        np.testing.assert_allclose(vectors(model, PADDED), wanted, atol=1e-5)
        np.testing.assert_allclose(vectors(model, PACKED)[0, :2], wanted, atol=1e-5)
    unit = vectors(BertEncoder(CONFIG, backbone=backbone), PADDED)
    np.testing.assert_allclose(unit, [v / np.linalg.norm(v) for v in expected["mean"]], atol=1e-6)


def test_an_empty_slot_holds_zeros(backbone):
    for pooling in ("mean", "max"):
        assert (vectors(BertEncoder(CONFIG, pooling=pooling, backbone=backbone), PACKED)[0, 2] == 0).all()


def test_a_projection_follows_the_pooling(backbone, tmp_path):
    model = BertEncoder(
        CONFIG,
        projection_dim=3,
        projection_activation="tanh",
        sequence_length=10,
        prompts={"query": "q: "},
        default_prompt="query",
        backbone=backbone,
        seed=2,
    )
    pooled = vectors(BertEncoder(CONFIG, normalize=False, backbone=backbone), PADDED)
    kernel, bias = map(ops.convert_to_numpy, model.projection.weights)
    projected = np.tanh(pooled @ kernel + bias)
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(model, PADDED), expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = BertEncoder.from_pretrained(tmp_path)
    others = ("name", "seed", "backbone")  # a checkpoint holds neither name nor seed
    assert {k: v for k, v in again.get_config().items() if k not in others} == {
        k: v for k, v in model.get_config().items() if k not in others
    }
    np.testing.assert_array_equal(vectors(again, PADDED), vectors(model, PADDED))
    with pytest.warns(InputWarning, match="new, with initial values: projection"):
        assert BertEncoder.from_pretrained(tmp_path, projection_dim=5).dim == 5


def test_files_are_those_of_sentence_transformers(backbone, tmp_path):
    BertEncoder(CONFIG, backbone=backbone).save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [(module["path"], module["type"].rpartition(".")[2]) for module in modules] == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    ]
    assert (tmp_path / "2_Normalize").is_dir() and not any((tmp_path / "2_Normalize").iterdir())
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_cls_token"]
    config, settings = read_settings(tmp_path)
    assert model_class_of(settings, tmp_path) is BertEncoder and config == CONFIG
    BertBackbone.from_pretrained(tmp_path)


def test_the_newer_form_is_read(backbone, tmp_path):
    model = BertEncoder(CONFIG, pooling="max", backbone=backbone)
    model.save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.base.modules.transformer.Transformer"
    modules[1]["type"] = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    modules[2]["type"] = "sentence_transformers.base.modules.normalize.Normalize"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 8, "pooling_mode": "max", "include_prompt": True})
    )
    (tmp_path / "sentence_bert_config.json").write_text('{"transformer_task": "feature-extraction"}')
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 9}')
    again = BertEncoder.from_pretrained(tmp_path)
    assert (again.pooling, again.normalize, again.sequence_length) == ("max", True, 9)
    np.testing.assert_array_equal(vectors(again, PADDED), vectors(model, PADDED))


def test_a_plain_bert_gives_means_and_says_so(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    with pytest.warns(InputWarning, match=r"holds no modules\.json: vectors are means"):
        model = BertEncoder.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        vectors(model, PADDED), vectors(BertEncoder(CONFIG, backbone=backbone), PADDED)
    )
    BertEncoder(CONFIG, backbone=backbone).save_pretrained(tmp_path)
    backbone.save_pretrained(tmp_path)
    assert not (tmp_path / "modules.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", {}, r"modules\.json: holds {}, it must be a list of modules"),
        ("modules.json", [{"type": "x.Transformer", "path": "../x"}], "a path beside this file"),
        ("modules.json", [{"type": "x.Transformer", "path": ""}], "the modules are Transformer; only"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "lasttoken"},
            r"the pooling is \['lasttoken'\], only one of",
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, "only one of cls, mean, max"),
        (
            "1_Pooling/config.json",
            {"word_embedding_dimension": 7},
            "vectors of 7 numbers, the model's have 8",
        ),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "which is none of the prompts"),
        ("2_Dense/config.json", {"in_features": 9, "out_features": 3}, "from 9 to 3 numbers"),
        ("2_Dense/config.json", {"in_features": 8, "out_features": 3, "activation_function": "x"}, "'x'"),
        (
            "2_Dense/config.json",
            {"in_features": 8, "out_features": 4},
            "there is no such file|shape|holds no",
        ),
    ],
)
def test_what_cannot_be_represented_is_refused(file, content, message, backbone, tmp_path):
    BertEncoder(CONFIG, projection_dim=3, backbone=backbone).save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        BertEncoder.from_pretrained(tmp_path)


def test_impossible_settings_are_refused():
    for settings in ({"pooling": "sum"}, {"sequence_length": 13}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            BertEncoder(CONFIG, **settings)


class Stepper:
    """Training steps of an encoder from the same weights and the same number of dropout's calls each time."""

    def __init__(self, parts, dropout=0.0):
        config = dataclasses.replace(CONFIG, dropout=dropout, attention_dropout=dropout)
        self.model = BertEncoder(config, seed=2)
        self.model.training_parts = parts
        eager = keras.backend.backend() != "jax"
        self.model.compile(keras.optimizers.SGD(1.0), loss=RankingLoss(scale=5), run_eagerly=eager)
        self.first = [ops.convert_to_numpy(variable) for variable in self.model.variables]
        tokens = np.random.default_rng(0).integers(5, 30, (8, 6)).astype(np.int32)
        self.inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
        places = np.arange(8)
        self.labels = np.stack([places // 2, places % 2, places, 0 * places], axis=1).astype(np.float32)

    def __call__(self, moved=None):
        """Returns the loss, and how far a step moves each weight: the gradient."""
        before = self.first if moved is None else [a + b for a, b in zip(self.first, moved, strict=True)]
        for variable, value in zip(self.model.variables, before, strict=True):
            variable.assign(value)
        loss = self.model.train_on_batch(
            self.inputs, self.labels, (self.labels[:, 1] == 0).astype(np.float32)
        )
        trained = {id(variable) for variable in self.model.trainable_variables}
        return float(loss), [
            value - ops.convert_to_numpy(variable) if id(variable) in trained else np.zeros_like(value)
            for variable, value in zip(self.model.variables, before, strict=True)
        ]


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    (loss, gradients), (whole, expected) = Stepper(4)(), Stepper(1)()
    assert loss == pytest.approx(whole, rel=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * max(np.abs(wanted).max(), 1))


def test_dropout_of_a_part_is_the_same_when_it_is_computed_again():
    """The loss changes along its gradient as the gradient says, which it does not with other masks."""
    step = Stepper(2, dropout=0.3)
    _, gradients = step()
    square = sum(float(np.sum(np.square(gradient))) for gradient in gradients)
    size = 1e-2 / square
    moved = [step([sign * size * gradient for gradient in gradients])[0] for sign in (1, -1)]
    assert (moved[0] - moved[1]) / (2 * size) == pytest.approx(square, rel=0.02)
    with pytest.raises(ValueError, match="a batch has 8 rows, which are not divisible"):
        Stepper(3)()
