"""The table of families: what it holds, and a family of a test's own, which nothing but its own table knows."""

import inspect
import json
from dataclasses import asdict, dataclass

import keras
import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm.checkpoints import Architecture, Entry, Format
from kerasllm.errors import InputError, NewHeadWarning
from kerasllm.models import registry
from kerasllm.models.base import LanguageModel

SHAPE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 10}


def test_every_exported_model_is_in_the_table():
    exported = {
        value
        for value in vars(kerasllm).values()
        if inspect.isclass(value) and issubclass(value, LanguageModel)
    }
    assert exported == {cls for family in registry.FAMILIES.values() for cls in family.classes}
    for cls in exported:
        assert cls in registry.family_of(cls).classes


@pytest.mark.parametrize("family", registry.FAMILIES.values(), ids=registry.FAMILIES)
def test_a_family_is_of_one_piece(family):
    """Every class has a row in one of the formats, and every row is of a class of the family."""
    rows = [row for stored in family.formats for row in stored.architectures]
    assert {row.model_class for row in rows} == set(family.classes)
    assert all(cls.config_class is family.config_class for cls in family.classes)
    assert family.formats[-1].represents(family.config_class())
    for size, changes in family.sizes.items():
        config = family.config_class.from_size(size)
        assert all(getattr(config, name) == value for name, value in changes.items())


@pytest.mark.parametrize(
    ("saved", "read", "message"),
    [
        ("GPT", kerasllm.BertClassifier, "model_type is 'gpt2', only 'bert' can be read"),
        ("BERT", kerasllm.GPTBackbone, "model_type is 'bert', only 'gpt2' or 'llama' can be read"),
    ],
)
def test_another_family_is_refused(saved, read, message, tmp_path):
    family = registry.FAMILIES[saved]
    family.backbone(family.config_class(vocabulary_size=20, **SHAPE), seed=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        read.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        registry.check_checkpoint(tmp_path, read.config_class)
    assert registry.check_checkpoint(tmp_path).hidden_dim == 8


def test_a_subclass_is_read_and_not_written(tmp_path):
    class Mine(kerasllm.BertBackbone):
        pass

    config = kerasllm.BertConfig(vocabulary_size=20, **SHAPE)
    kerasllm.BertBackbone(config, seed=1).save_pretrained(tmp_path)
    model = Mine.from_pretrained(tmp_path)
    assert type(model) is Mine
    with pytest.raises(InputError, match="Mine has no counterpart in Hugging Face's format"):
        model.save_pretrained(tmp_path)


@dataclass(frozen=True)
class ToyConfig:
    vocabulary_size: int = 5
    hidden_dim: int = 3
    max_sequence_length: int = 7


class ToyBackbone(LanguageModel):
    config_class = ToyConfig

    def __init__(self, config, *, seed=None, name=None):
        super().__init__(config, seed=seed, name=name)
        self.embeddings = keras.layers.Embedding(config.vocabulary_size, config.hidden_dim, name="embeddings")
        self.embeddings.build(None)
        self.built = True

    def call(self, inputs):
        return {"sequence_output": self.embeddings(inputs["token_ids"])}


class ToyTagger(LanguageModel):
    config_class = ToyConfig

    def __init__(self, config, *, backbone=None, seed=None, name=None):
        super().__init__(config, seed=seed, name=name)
        self.backbone = backbone or ToyBackbone(config)
        self.tags = keras.layers.Dense(2, name="tags")
        self.tags.build((None, None, config.hidden_dim))
        self.built = True

    def call(self, inputs):
        return self.tags(self.backbone(inputs)["sequence_output"])


def toy_entries(config):
    width = config.hidden_dim
    return [
        Entry("embeddings/embeddings", ("table.weight",), (config.vocabulary_size, width)),
        Entry("tags/kernel", ("tags.weight",), (width, 2), transpose=True),
        Entry("tags/bias", ("tags.bias",), (2,)),
    ]


TOY = Format(
    model_type="toy",
    architectures=(
        Architecture("ToyModel", ToyBackbone, None, None),
        Architecture("ToyForTagging", ToyTagger, "AutoModelForTokenClassification", "token-classification"),
    ),
    prefix="toy.",
    headed=("tags.",),
    heads=("tags",),
    entries=toy_entries,
    read_config=lambda theirs, path: ToyConfig(**{name: theirs[name] for name in asdict(ToyConfig())}),
    write_config=lambda model: {
        "architectures": [TOY.architecture_of(type(model))],
        "model_type": "toy",
        **asdict(model.config),
    },
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    return registry.register(
        registry.Family(
            name="toy",
            config_class=ToyConfig,
            sizes={},
            backbone=ToyBackbone,
            tasks=(ToyTagger,),
            formats=(TOY,),
            training_flops=lambda model, length, predicted: 6.0 * predicted / length,
        )
    )


def test_a_new_family_needs_its_own_table_alone(toy, tmp_path):
    model = ToyTagger(ToyConfig(), seed=1)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["ToyForTagging"]
    assert not (tmp_path / "generation_config.json").exists()
    card = (tmp_path / "README.md").read_text()
    assert "from kerasllm import ToyTagger" in card and "pipeline_tag: token-classification" in card
    tokens = {"token_ids": np.array([[1, 4, 0]])}
    again = ToyTagger.from_pretrained(tmp_path)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(each(tokens)) for each in (model, again)))
    assert registry.family_of(ToyTagger) is toy
    assert registry.check_checkpoint(tmp_path) == registry.read_settings(tmp_path)[0] == ToyConfig()
    assert model.training_flops(4, predicted=2) == 3.0
    with pytest.raises(InputError, match="model_type is 'toy', only 'bert' can be read"):
        kerasllm.BertBackbone.from_pretrained(tmp_path)
    registry.write_model_card(tmp_path, {"Data": "none"})
    assert "## Data" in (tmp_path / "README.md").read_text()


def test_a_backbone_of_a_new_family_gets_a_head(toy, tmp_path):
    ToyBackbone(ToyConfig(), seed=1).save_pretrained(tmp_path)
    with pytest.warns(NewHeadWarning, match="new, with initial values: tags"):
        ToyTagger.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="ToyBackbone is no BERT and no GPT"):
        registry.to_keras_hub(ToyBackbone(ToyConfig()))


def test_a_model_of_no_family(tmp_path):
    with pytest.raises(InputError, match="ToyBackbone is of no family"):
        ToyBackbone(ToyConfig()).save_pretrained(tmp_path)
