"""What is searched is read as the recipe's own command line reads it, and refused before the first trial."""

import pytest
import yaml

from kerasllm.errors import InputError
from kerasllm.search.recipe import TrainingRecipe
from kerasllm.search.space import Choices, Interval, base_values, read_space


@pytest.fixture
def bert(tmp_path) -> TrainingRecipe:
    path = tmp_path / "base.yaml"
    path.write_text(
        "train: a.tsv\nvalidation: b.tsv\ntext_columns: 0\nmodel:\n  num_layers: 1\ninit: runs/x\n"
    )
    return TrainingRecipe.find("finetune_bert", [path])


def test_ranges_and_choices(bert):
    texts = ["learning_rate=1e-5..5e-4:log", "batch_size=16,32", "warmup=0..0.2", "epochs=1..4"]
    texts += ["packing=true,false", "patience=2,null", "monitor=loss,accuracy", "clip_norm=0.5,1,2"]
    assert read_space(texts, bert) == {
        "learning_rate": Interval(1e-5, 5e-4, True),
        "batch_size": Choices((16, 32)),
        "warmup": Interval(0.0, 0.2, False),
        "epochs": Interval(1, 4, False),
        "packing": Choices((True, False)),
        "patience": Choices((2, None)),
        "monitor": Choices(("loss", "accuracy")),
        "clip_norm": Choices((0.5, 1.0, 2.0)),
    }


def test_what_is_tried_can_be_typed():
    assert Interval(1e-5, 5e-4, True).setting(0.000123456789) == 0.0001235
    assert Interval(1.2343, 2.0, False).setting(1.23432) == 1.2343  # not rounded out of the range
    value = Interval(1, 8, True).setting(3)
    assert value == 3 and isinstance(value, int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rat=1e-5..1e-3",
            "^--space learning_rat=1e-5..1e-3: unknown setting learning_rat: did you mean learning_rate?$",
        ),
        ("model.hidden=8,16", "unknown setting model.hidden: did you mean model.hidden_dim?"),
        ("lr=1e-5..1e-3", r"unknown setting lr \(finetune_bert --help lists all options\)"),
        ("learning_rate=0..1e-3", "--learning_rate is 0.0, it must be above 0"),
        ("batch_size=16,0", "--batch_size is 0, it must be at least 1"),
        ("batch_size=16,many", "--space batch_size=16,many: 'many' is not a whole number"),
        ("batch_size=1.5..3", "'1.5' is not a whole number"),
        ("warmup=0.2..0.1", "0.2 is not below 0.1"),
        ("warmup=0..0.1:log", "a logarithmic range begins above 0"),
        ("packing=0..1", "are not numbers"),
        ("packing=true,1", "a value occurs twice"),
        ("batch_size=16", "one value leaves no choice"),
        ("batch_size", "write NAME=LOW..HIGH"),
        ("=1,2", "write NAME=LOW..HIGH"),
        ("seed=1,2", "seeds are not searched but repeated"),
        ("output=a,b", "a search has one of its own"),
        ("size=tiny,mini", "--size has no effect with --init"),
    ],
)
def test_refused(text, message, bert):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        read_space(["weight_decay=0,0.1", text], bert)


def test_refused_together(bert):
    with pytest.raises(InputError, match="twice"):
        read_space(["warmup=0..0.1", "warmup=0..0.2"], bert)
    with pytest.raises(InputError, match="--space is empty"):
        read_space([], bert)


@pytest.mark.parametrize(
    ("name", "message"), [("finetune_brt", "did you mean finetune_bert"), ("predict", "trains nothing")]
)
def test_recipe_refused(name, message):
    with pytest.raises(InputError, match=message):
        TrainingRecipe.find(name, [])


def test_base_outside_the_space(bert):
    config = bert.config()
    space = {"learning_rate": Interval(1e-5, 1e-3, True), "model.num_layers": Choices((1, 2))}
    assert base_values(space, config) == {"learning_rate": 5e-5, "model.num_layers": 1}
    assert base_values({"epochs": Choices((4, 5))}, config) is None


def test_files_are_read_again(bert, tmp_path):
    """What the base holds and nothing else, changed by the best settings; --config takes it."""
    path = tmp_path / "best.yaml"
    bert.write(path, {"learning_rate": 3e-4, "model.num_layers": 2, "packing": False}, "trial 001\nof x")
    assert yaml.safe_load(path.read_text()) == {
        **{"train": "a.tsv", "validation": "b.tsv", "text_columns": "0", "init": "runs/x"},
        **{"learning_rate": 3e-4, "packing": False, "model": {"num_layers": 2}},
    }
    assert path.read_text().startswith("# trial 001\n# of x\ntrain:")
    again = TrainingRecipe.find("finetune_bert", [path]).config()
    assert again == bert.config({"learning_rate": 3e-4, "packing": False}) or again.model.num_layers == 2
    assert again.learning_rate == 3e-4 and again.model.num_layers == 2 and not again.packing
