"""Tagging from a run: figures, the saved model, prediction, an interrupted run, and bad input."""

import json

import pytest

from kerasllm.data.sources.conll import read_conll
from kerasllm.data.sources.tag_schemes import entities

pytestmark = pytest.mark.filterwarnings("ignore:.*new, with initial values")

TRAINING = ["--batch_size", "8", "--epochs", "4", "--learning_rate", "1e-2", "--model.dropout", "0"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_rows):
    """Sentences whose animal is an entity, of two words with its adjective."""
    folder = tmp_path_factory.mktemp("conll")
    for name, count, seed in (("train", 48, 1), ("test", 16, 2)):
        lines = []
        for text, *_ in make_rows(count, seed):
            tags = ["O", "B-animal", "I-animal"]
            lines += [
                f"{word}\t{tags[i] if i < 3 else 'O'}" for i, word in enumerate(text.rstrip(".").split())
            ]
            lines += [".\tO", ""]
        (folder / f"{name}.conll").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tagger(pretrained, files, run_recipe, tmp_path_factory, without_compiling):
    output = tmp_path_factory.mktemp("tagger") / "run"
    argv = ["--init", pretrained, "--train", files / "train.conll", "--validation", files / "test.conll"]
    argv += ["--token_column", "0", "--label_column", "1", "--sequence_length", "32", *TRAINING]
    with without_compiling(eagerly=False):
        assert run_recipe("finetune_tagging", *argv, "--output", output) == 0
    return output


def test_the_entities_are_found(tagger, read_run, run_recipe, capsys):
    lines, results = read_run(tagger)
    figures = results["validation"]
    assert figures["f1"] == figures["f1_strict"] == figures["f1_viterbi"] == figures["accuracy"] == 1.0
    assert lines[-1]["loss"] < 0.3 < lines[0]["loss"]
    saved = json.loads((tagger / "model" / "config.json").read_text())
    assert saved["architectures"] == ["BertForTokenClassification"]
    assert saved["id2label"] == {"0": "O", "1": "B-animal", "2": "I-animal"}
    capsys.readouterr()
    assert run_recipe("predict", "--model", tagger, "--text", "The old cat sings near the river.") == 0
    assert "\t4-11\told cat" in capsys.readouterr().out


def test_tags_as_conll(tagger, pretrained, run_recipe, tmp_path, capsys):
    texts = [
        "The old cat sings near the river.",
        "A  young dog,  the red bird!",
        "caf\u00e9 \U0001f600 \u6f22\u5b57",
    ]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    given = ["--model", tagger, "--file", tmp_path / "texts.txt"]
    assert run_recipe("predict", *given, "--output", tmp_path / "found.jsonl") == 0
    assert run_recipe("predict", *given, "--format", "conll", "--output", tmp_path / "found.conll") == 0
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text("utf-8").splitlines()]
    sentences = list(read_conll(str(tmp_path / "found.conll")))
    assert any(row["entities"] for row in rows)
    for row, text, sentence in zip(rows, texts, sentences, strict=True):
        words = [line.word for line in sentence]
        assert "".join(words) == "".join(text.split())
        spans = [
            ("".join(words[each.first : each.last + 1]), each.label)
            for each in entities([line.tag for line in sentence])
        ]
        assert spans == [("".join(each["text"].split()), each["label"]) for each in row["entities"]]
    divided = "Jean-Luc\tB-animal\nhas\tO\na\tO\ncat's\tO\n\n# a comment\nyoung\tO\ndog\tO\n"
    (tmp_path / "gold.conll").write_text(divided, encoding="utf-8")
    given = ["--model", tagger, "--file", tmp_path / "gold.conll", "--format", "conll"]
    assert run_recipe("predict", *given, "--output", tmp_path / "own.conll") == 0
    words = [[line.word for line in sentence] for sentence in read_conll(str(tmp_path / "own.conll"))]
    assert words == [["Jean-Luc", "has", "a", "cat's"], ["young", "dog"]]  # as they are divided there
    capsys.readouterr()
    assert run_recipe("predict", *given, "--text_columns", "word") == 2
    assert "--text_columns is word: the column of words" in capsys.readouterr().err
    argv = ["--model", pretrained, "--text", "a [MASK]", "--format", "conll"]
    assert run_recipe("predict", *argv) == 2
    assert "--format conll is for taggers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--label_column", "2"), "label_column is 2, the file has 2 columns"),
        (
            ("--tag_scheme", "none", "--monitor", "f1", "--validation", "{train}"),
            "--monitor f1 needs tags of entities",
        ),
        (("--monitor", "f1"), "--monitor f1 needs --validation"),
        (("--sequence_length", "64"), "--sequence_length 64 is above the 32 positions"),
    ],
)
def test_bad_settings(change, message, pretrained, files, run_recipe, tmp_path, capsys):
    train = str(files / "train.conll")
    change = [value.replace("{train}", train) for value in change]
    argv = ["--init", pretrained, "--train", train, "--sequence_length", "32", "--output", tmp_path / "run"]
    assert run_recipe("finetune_tagging", *argv, *change) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
