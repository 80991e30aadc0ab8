"""The model card by its lines: what a reader of a hub's page needs to know, and nothing that is null."""

import ast
import re

import pytest
import yaml

from kerasllm import BertClassifier, BertConfig, BertMaskedLM, BertRegressor, GPTCausalLM, GPTConfig
from kerasllm.training.run.card import part_sizes, write_run_card

SHAPE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "vocabulary_size": 1500, "max_sequence_length": 16}
BERT, GPT = BertConfig(**SHAPE), GPTConfig(**SHAPE)


@pytest.fixture
def card(tmp_path):
    """Writes the card of a run, and returns its text."""

    def write(model, settings, resolved, results):
        (tmp_path / "model").mkdir()
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").write_text("{}")  # the card asks only whether it is there
        versions = {"kerasllm": "1.2", "keras": "3.15", "backend": "jax", "jax": "0.10", "numpy": "2.0"}
        content = {**settings, "versions": versions, "resolved": {"model": SHAPE, **resolved}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        write_run_card(tmp_path, {"backend": "jax", "seconds": 4211.4, **results})
        text = (tmp_path / "model" / "README.md").read_text()
        assert "null" not in text and "None" not in text
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            ast.parse(block)
        return text

    return write


def test_classification(card):
    settings = {
        **{"output": "/home/me/secret/run", "train": "/home/me/secret/train.tsv", "validation": None},
        **{
            "test": "/home/me/secret/a|b.tsv",
            "init": "hub:someone/bert",
            "learning_rate": 5e-5,
            "patience": None,
        },
        **{"model": {"num_layers": 1, "dropout": None}, "guard": {"non_finite": "stop"}, "packing": True},
        **{"corpus": [], "sample_prompt": "", "resume": False, "steps": 12345},
    }
    sizes = {"train": {"examples": 5159}, "validation": {"examples": 573}, "test": {"examples": 1}}
    figures = {
        "loss": 0.123456789,
        "examples": 573,
        "f1": 0.0,
        "matthews": None,
        "confusion": {"a": {"a": 1}},
    }
    text = card(
        BertClassifier(BERT, label_names=["ham", "spam"]),
        settings,
        {"data": sizes, "labels": ["ham", "spam"]},
        {
            **{"task": "classification", "validation": figures, "test": {"loss": 0.25, "matthews": 0.5}},
            **{"steps": 12345, "best_step": 870, "parameters": 20000, "trainable_parameters": 200},
            **{"precision": "float32", "peak_memory_mib": 1906},
        },
    )
    lines = text.splitlines()
    for line in (
        'print(kerasllm.load(MODEL).predict(["a text of the kind that it was trained on"]))',
        'print(pipeline("text-classification", model=MODEL)("a text of the kind that it was trained on"))',
        "model = BertClassifier.from_pretrained(MODEL)",
        "| training | train.tsv | 5,159 examples |",
        "| validation | set aside from the training data | 573 examples |",
        "| test | a\\|b.tsv | 1 example |",
        "| started from | hub:someone/bert |  |",
        "| labels | ham, spam | 2 classes |",
        "| figure | validation | test | unit |",
        "| loss | 0.123457 | 0.25 | nats per text |",
        "| f1 | 0 |  | from 0 to 1 |",
        "| matthews |  | 0.5 | from -1 to 1 |",
        "| parameters | 20,000 |",
        "| parameters trained | 200 |",
        "| vocabulary size | 1,500 |",
        "| step of the best validation | 870 |",
        "| training time | 4,211 s |",
        "| peak memory | 1,906 MiB |",
        "| software | kerasllm 1.2, keras 3.15, jax 0.10 |",
        "| `learning_rate` | 5e-05 |",
        "| `model.num_layers` | 1 |",
        "| `packing` | True |",
    ):
        assert line in lines
    assert "secret" not in text and "guard" not in text and "confusion" not in text
    assert len(lines) < 110


def test_a_run_that_was_not_judged(card):
    sizes = {"train": {"tokens": 40, "documents": 1}}
    text = card(GPTCausalLM(GPT), {"corpus": ["a/b.txt", "c.txt"]}, {"data": sizes}, {"validation": None})
    assert 'print(kerasllm.load(MODEL).generate(["Once upon a time"]))' in text
    assert "| training | b.txt, c.txt | 40 tokens, 1 document |" in text
    assert "The model was not judged: no data was set aside for validation or test." in text


@pytest.mark.parametrize(
    "model_class, results, line",
    [
        (BertRegressor, {"task": "regression"}, "| loss | 0.5 | squared unit of the labels |"),
        (BertMaskedLM, {"task": "masked_lm"}, "| loss | 0.5 | nats, the sum of the objectives |"),
    ],
)
def test_units_of_the_loss(card, model_class, results, line):
    text = card(model_class(BERT), {}, {}, {**results, "validation": {"loss": 0.5}})
    assert line in text.splitlines()
    assert ("[MASK]" in text) == (model_class is BertMaskedLM)


def test_sizes():
    class Store:
        num_documents, num_sentences, num_tokens = 3, 20, 4000

    class Batches:
        stream = Store()

    assert part_sizes({"train": Batches(), "validation": [1, 2], "test": None}) == {
        "train": {"documents": 3, "sentences": 20, "tokens": 4000},
        "validation": {"examples": 2},
    }
