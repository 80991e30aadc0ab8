"""Fine-tuning from a run and from scratch, for classes and for numbers; then prediction."""

import json
import re
import shlex

import pytest

from kerasllm import BertClassifier
from kerasllm.checkpoints import resolve_directory
from kerasllm.data.sources.labelled import read_labelled
from kerasllm.tokenizers.loading import load_wordpiece

pytestmark = pytest.mark.filterwarnings("ignore:.*new, with initial values")

TRAINING = ["--batch_size", "8", "--epochs", "6", "--learning_rate", "1e-2"]
TRAINING += ["--model.dropout", "0", "--seed", "2"]


def write_tsv(path, rows, columns, header=None):
    lines = ["\t".join(header)] if header else []
    lines += ["\t".join(str(row[column]) for column in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory, make_rows):
    """Training and held-out rows: first text, second text, class."""
    folder = tmp_path_factory.mktemp("tables")
    train, test = make_rows(64, 1), make_rows(24, 2)
    return {
        "plain": [write_tsv(folder / f"plain_{i}.tsv", rows, (0, 2)) for i, rows in enumerate((train, test))],
        "number": [
            write_tsv(folder / f"number_{i}.tsv", rows, (0, 1, 3), ("#1 String", "#2 String", "Shared"))
            for i, rows in enumerate((train, test))
        ],
    }


@pytest.fixture(scope="module")
def classifier(pretrained, tables, run_recipe, tmp_path_factory):
    """A classifier from the pretrained run, on a TSV without header."""
    output = tmp_path_factory.mktemp("classifier") / "run"
    train, test = tables["plain"]
    argv = ["--init", pretrained, "--train", train, "--validation", test, "--test", test, "--output", output]
    argv += ["--text_columns", "0", "--label_column", "1", "--sequence_length", "32", *TRAINING]
    assert run_recipe("finetune_bert", *argv) == 0
    return output


def test_from_a_run_on_a_tsv_without_header(classifier, read_run):
    lines, results = read_run(classifier)
    assert [line["step"] for line in lines] == list(range(1, 6 * 8 + 1))
    assert [line["step"] for line in lines if "validation_loss" in line] == list(range(8, 49, 8))
    assert results["test"]["accuracy"] == 1.0 == results["test"]["matthews"]
    assert results["test"] == results["validation"]
    assert lines[-1]["loss"] < 0.3 < lines[0]["loss"]
    saved = json.loads((classifier / "model" / "config.json").read_text())
    assert saved["architectures"] == ["BertForSequenceClassification"]
    assert saved["id2label"] == {"0": "cats", "1": "dogs"}
    assert (classifier / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (classifier / "model" / "tokenizer.json").is_file()


@pytest.mark.usefixtures("without_xla")
def test_pairs_and_numbers_from_scratch(tables, run_recipe, read_run, tiny, tmp_path, capsys):
    """Regression on two columns by name, with a tokenizer of its own; prediction gives numbers."""
    train, test = tables["number"]
    argv = [
        "--train",
        train,
        "--test",
        test,
        "--text_columns",
        "#1 String,#2 String",
        "--label_column",
        "Shared",
    ]
    argv += [*tiny["model"], "--vocabulary_size", "100", "--output", tmp_path / "run", *TRAINING]
    assert run_recipe("finetune_bert", *argv, "--epochs", "3") == 0
    lines, results = read_run(tmp_path / "run")
    assert results["task"] == "regression" and "validation" not in results
    assert {"loss", "pearson", "spearman"} <= set(results["test"])
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    capsys.readouterr()
    assert (
        run_recipe("predict", "--model", tmp_path / "run", "--text", "The old cat runs.\tThe old cat sings.")
        == 0
    )
    value, text = capsys.readouterr().out.strip().split("\t", 1)
    assert 0 < float(value) < 1.5 and text == "The old cat runs.\tThe old cat sings."


def test_predict_classifies_a_file(classifier, tables, run_recipe, tmp_path):
    """The labels by name, in the file's order, as JSON lines."""
    output = tmp_path / "predictions.jsonl"
    file = tables["plain"][1]
    argv = [
        "--model",
        classifier,
        "--file",
        file,
        "--text_columns",
        "0",
        "--output",
        output,
        "--batch_size",
        "7",
    ]
    assert run_recipe("predict", *argv) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    expected = [line.split("\t") for line in file.read_text().splitlines()]
    assert [[row["text"], row["label"]] for row in rows] == expected
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3) for row in rows)
    assert all(row["probability"] == max(row["probabilities"].values()) > 0.5 for row in rows)


def test_predict_fills_masks(pretrained, run_recipe, capsys, tmp_path):
    """Each [MASK] gets its candidates; a text without one is a mistake."""
    output = tmp_path / "filled.jsonl"
    texts = ["[MASK] old cat [MASK] near the river.", "The young dog waits near the [MASK]."]
    assert (
        run_recipe("predict", "--model", pretrained, "--text", *texts, "--top_k", "3", "--output", output)
        == 0
    )
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [len(row["masks"]) for row in rows] == [2, 1]
    for place in (place for row in rows for place in row["masks"]):
        probabilities = [candidate["probability"] for candidate in place]
        assert len(place) == 3 and probabilities == sorted(probabilities, reverse=True)
    assert run_recipe("predict", "--model", pretrained, "--text", texts[1]) == 0
    assert capsys.readouterr().out.startswith(texts[1] + "\t")
    assert run_recipe("predict", "--model", pretrained, "--text", "no mask") == 2
    assert "[MASK]" in capsys.readouterr().err


def test_resume_of_a_finished_run(classifier, tables, run_recipe, capsys):
    argv = ["--output", classifier, "--train", tables["plain"][0], "--resume"]
    assert run_recipe("finetune_bert", *argv) == 0
    assert capsys.readouterr().out == f"{classifier} is finished: nothing to resume\n"
    assert run_recipe("finetune_bert", *argv, "--epochs", "7") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "finished, with --epochs 6" in line and line.endswith(f"--init {classifier} --output NEW")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--label_column", "7"], "7"),
        (["--sequence_length", "64"], "above the 32 positions"),
        (["--model.num_layers", "3"], "--model.num_layers cannot change a checkpoint"),
        (["--train", "nowhere.tsv"], "nowhere.tsv"),
        (["--init", "nowhere/run"], "nowhere/run"),
        (["--patience", "2"], "--patience needs --validation"),
        (["--monitor", "pearson"], "--monitor pearson"),
    ],
)
def test_mistakes_leave_nothing_behind(pretrained, tables, run_recipe, tmp_path, capsys, change, message):
    argv = ["--text_columns", "0", "--label_column", "1", "--sequence_length", "32", "--init", pretrained]
    argv += ["--train", tables["plain"][0], "--output", tmp_path / "run", *change]
    assert run_recipe("finetune_bert", *argv) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_unseen_label_in_validation(pretrained, tables, run_recipe, tmp_path, capsys):
    """File, line, value and mend."""
    bad = tmp_path / "dev.tsv"
    bad.write_text("The cat runs.\tcats\nThe dog runs.\tdosg\n")
    argv = ["--text_columns", "0", "--label_column", "1", "--sequence_length", "32", "--init", pretrained]
    argv += ["--train", tables["plain"][0], "--validation", bad, "--output", tmp_path / "run"]
    assert run_recipe("finetune_bert", *argv) == 2
    message = capsys.readouterr().err
    assert "dev.tsv:2: label 'dosg'" in message and "'dogs'" in message


def test_predict_names_all_labels_of_a_text(pretrained, run_recipe, capsys, tmp_path):
    """A model of the kind that transformers calls multi_label_classification."""
    model = BertClassifier.from_pretrained(
        pretrained, label_names=["sea", "ship", "storm"], multi_label=True, seed=0
    )
    model.classifier.bias.assign([9.0, -9.0, 9.0])
    tokenizer = load_wordpiece(resolve_directory(pretrained))
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    capsys.readouterr()
    argv = ["--model", tmp_path / "model", "--text", "the old cat"]
    assert run_recipe("predict", *argv) == 0
    assert re.fullmatch(r"sea 0\.99\d\d, storm 0\.99\d\d\tthe old cat\n", capsys.readouterr().out)
    assert run_recipe("predict", *argv, "--output", tmp_path / "found.jsonl") == 0
    row = json.loads((tmp_path / "found.jsonl").read_text())
    assert row["labels"] == ["sea", "storm"] and row["probabilities"]["ship"] < 0.01


@pytest.mark.usefixtures("without_xla")
def test_several_labels_and_adapters(pretrained, run_recipe, read_run, tmp_path, capsys):
    """Labels in one column of a TSV, or lists in JSON lines; adapters, merged into the saved model."""
    rows = [
        ("the old cat", "cat,old"),
        ("the young dog", "dog"),
        ("the old dog", "dog,old"),
        ("near the river", ""),
    ] * 24
    table = write_tsv(tmp_path / "train.tsv", rows, (0, 1))
    lists = tmp_path / "test.jsonl"
    lines = [
        {"text": text, "label": [label for label in labels.split(",") if label]} for text, labels in rows[:4]
    ]
    lists.write_text("\n".join(map(json.dumps, lines)))
    columns = ["--text_columns", "0", "--label_column", "1"]
    argv = ["--init", pretrained, "--train", table, *columns, "--validation", table, "--multi_label"]
    argv += ["--sequence_length", "16", *TRAINING, "--monitor", "f1_micro"]
    assert run_recipe("finetune_bert", *argv, "--epochs", "24", "--output", tmp_path / "run") == 0
    _, results = read_run(tmp_path / "run")
    assert results["validation"]["f1_micro"] > 0.9
    adapters = ["--lora_rank", "4", "--epochs", "1"]
    assert run_recipe("finetune_bert", *argv, *adapters, "--output", tmp_path / "adapted") == 0
    _, adapted = read_run(tmp_path / "adapted")
    assert adapted["trainable_parameters"] < results["trainable_parameters"] == results["parameters"]
    assert BertClassifier.from_pretrained(tmp_path / "adapted").count_params() == results["parameters"]
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert saved["problem_type"] == "multi_label_classification"
    assert saved["id2label"] == {"0": "cat", "1": "dog", "2": "old"}
    capsys.readouterr()
    assert run_recipe("predict", "--model", tmp_path / "run", "--text", "the old dog") == 0
    assert re.match(r"dog 0\.\d+, old 0\.\d+\t", capsys.readouterr().out)
    read = read_labelled(str(lists), separator=",")
    assert read.label_names == ("cat", "dog", "old") and read.labels.tolist()[2:] == [[0, 1, 1], [0, 0, 0]]
    other = write_tsv(tmp_path / "other.tsv", [("the old cat", "cat,lion")], (0, 1))
    for wrong, words in (
        (["--task", "regression"], "--multi_label is for classes"),
        (["--validation", other], "label 'lion' is not one of"),
    ):
        assert run_recipe("finetune_bert", *argv, *wrong, "--output", tmp_path / "no") == 2
        assert words in capsys.readouterr().err
    assert run_recipe("finetune_bert", *argv[2:], *adapters, "--output", tmp_path / "no") == 2
    assert "name it with --init" in capsys.readouterr().err


@pytest.fixture(scope="module")
def one_file(tmp_path_factory, make_rows):
    """Rows of one file, some of them twice, with labels 0.0 and 1.0."""
    rows = [(row[0], f"{float(row[2] == 'dogs')}") for row in make_rows(80, 5)]
    path = tmp_path_factory.mktemp("one") / "all.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows + rows[:10]))
    return path


@pytest.mark.usefixtures("uncompiled")
def test_one_file_is_enough(one_file, run_recipe, read_run, tiny, tmp_path, capsys):
    """Validation and test data are set aside, classes have names, and the last line can be typed as it stands."""
    argv = ["--train", one_file, "--validation_fraction", "0.2", "--test_fraction", "0.1", *tiny["model"]]
    argv += ["--label_names", "0=cats,1=dogs", "--vocabulary_size", "100", "--output", tmp_path / "run"]
    assert run_recipe("finetune_bert", *argv, *TRAINING, "--epochs", "1") == 0
    shown = capsys.readouterr().out
    assert "nothing will judge" not in shown
    results = read_run(tmp_path / "run")[1]
    sizes = {name: results[name]["examples"] for name in ("validation", "test")}
    assert abs(sizes["validation"] - 18) <= 1 and abs(sizes["test"] - 9) <= 1  # texts that are there twice
    for name, size in sizes.items():
        assert f"set aside for {name}: {size} examples of 90, {100 * size / 90:.2g} % of --train" in shown
    assert results["test"]["confusion"].keys() == {"cats", "dogs"}
    assert json.loads((tmp_path / "run/model/config.json").read_text())["id2label"] == {
        "0": "cats",
        "1": "dogs",
    }
    *_, reached, where, use = shown.splitlines()
    assert reached.startswith("test: loss ") and where.startswith(f"written to {tmp_path / 'run'} (")
    words = shlex.split(use[use.index("--model") :])
    assert run_recipe("predict", *words) == 0
    assert capsys.readouterr().out.split("\t")[0] in ("cats", "dogs")
    assert run_recipe("predict", "--model", tmp_path / "run", "--text", "The old [MASK] runs.") == 0
    assert "fills in no [MASK]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ("0=cats", "label '1' has no name"),
        ("0=cats,1=dogs,2=owls", "no label '2' in the data, only ['0', '1']"),
        ("0=cats,0.0=dogs,1=x", "label '0.0' has two names"),
        ("0=cats,1=cats", "two labels have the name 'cats'"),
        ("cats,dogs", "'cats' is not LABEL=NAME"),
        ("0=,1=dogs", "'0=' is not LABEL=NAME"),
    ],
)
def test_names_that_do_not_fit_the_classes(one_file, run_recipe, tiny, tmp_path, capsys, names, part):
    argv = ["--train", one_file, "--label_names", names, "--output", tmp_path / "run", *tiny["model"]]
    assert run_recipe("finetune_bert", *argv) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (
            ["--validation_fraction", "0.1", "--validation", "a"],
            "--validation names a file: give one of the two",
        ),
        (["--test_fraction", "0.1", "--test", "a"], "--test names a file: give one of the two"),
        (["--validation_fraction", "0.5", "--test_fraction", "0.5"], "leave nothing to train on"),
        (["--validation_fraction", "1"], "--validation_fraction is 1.0, it must lie in [0, 1)"),
        (["--validation_fraction", "0.001"], "is none; give more data (at least 1000)"),
        (["--patience", "2"], "--patience needs --validation or a --validation_fraction above 0"),
    ],
)
def test_parts_that_cannot_be(one_file, run_recipe, tiny, tmp_path, capsys, more, part):
    argv = ["--train", one_file, "--output", tmp_path / "run", *tiny["model"], *more]
    assert run_recipe("finetune_bert", *argv) == 2
    assert part in capsys.readouterr().err


def test_parts_are_a_function_of_the_seed_and_no_text_is_in_two(one_file, recipe, tmp_path):
    module = recipe("finetune_bert")
    config = module.Config(train=str(one_file), output="x", validation_fraction=0.2, test_fraction=0.1)
    parts, again, other = config.read(3), config.read(3), config.read(4)
    texts = {name: [text for (text,) in part.texts] for name, part in parts.items()}
    assert not set(texts["train"]) & set(texts["validation"] + texts["test"])
    assert not set(texts["validation"]) & set(texts["test"])
    assert sum(map(len, texts.values())) == 90
    for name, part in parts.items():
        assert again[name].lines.tolist() == part.lines.tolist() != other[name].lines.tolist()
        assert part.labels.mean() == pytest.approx(0.5, abs=0.12)
