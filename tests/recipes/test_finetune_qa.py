"""Question answering from a run: figures, files of predictions, an interrupted run, answers, and bad input."""

import json
import shutil

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*new, with initial values")

TRAINING = ["--sequence_length", "32", "--document_stride", "8", "--batch_size", "8", "--epochs", "3"]
TRAINING += ["--learning_rate", "1e-2", "--model.dropout", "0.1", "--checkpoint_steps", "4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_rows):
    """Questions about a sentence; every fourth has no answer, and some contexts need two windows."""
    folder = tmp_path_factory.mktemp("squad")
    for name, count, seed in (("train", 40, 1), ("dev", 16, 2)):
        paragraphs = []
        for number, (first, second, *_) in enumerate(make_rows(count, seed)):
            context = f"{first} {second}" * (2 if number % 8 == 0 else 1)
            place = first.rstrip(".").split()[-1]
            answers = [{"text": place, "answer_start": context.index(place)}]
            asked = {"id": f"q{number}", "question": "Near the what?", "answers": answers}
            if number % 4 == 3:
                asked |= {"question": "Who slept?", "answers": [], "is_impossible": True}
            paragraphs.append({"context": context, "qas": [asked]})
        content = {"version": "2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def settings(pretrained, files):
    argv = ["--init", pretrained, "--train", files / "train.json", "--validation", files / "dev.json"]
    return [*argv, "--test", files / "dev.json", *TRAINING]


@pytest.fixture(scope="module")
def reader(settings, run_recipe, tmp_path_factory, without_compiling):
    output = tmp_path_factory.mktemp("reader") / "run"
    with without_compiling(eagerly=False):
        assert run_recipe("finetune_qa", *settings, "--output", output) == 0
    return output


def test_it_learns(reader, files, read_run):
    lines, results = read_run(reader)
    figures = results["validation"]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"] and figures["loss"] < 0.5 * lines[0]["loss"]
    assert figures["f1"] > 0.6 and figures["examples"] == 16 and "null_threshold" in figures
    assert figures["no_answer"]["examples"] == 4 and lines[-1]["validation_f1"] == figures["f1"]
    assert results["test"] == figures  # the same data, and the threshold that was chosen on them
    saved = json.loads((reader / "model" / "config.json").read_text())
    assert saved["architectures"] == ["BertForQuestionAnswering"]
    data = json.loads((files / "dev.json").read_text())["data"][0]["paragraphs"]
    contexts = {paragraph["qas"][0]["id"]: paragraph["context"] for paragraph in data}
    for prefix in ("", "test_"):
        predictions, best, odds = (
            json.loads((reader / f"{prefix}{name}.json").read_text())
            for name in ("predictions", "nbest_predictions", "null_odds")
        )
        assert predictions.keys() == best.keys() == odds.keys() == contexts.keys()
        for name, text in predictions.items():
            assert (text == "") == (odds[name] > figures["null_threshold"])
            assert text in contexts[name] and text in [entry["text"] for entry in best[name]]


def test_interrupted_it_ends_the_same(reader, settings, run_recipe, read_run, tmp_path, without_xla):
    parted = tmp_path / "parted"
    shutil.copytree(reader, parted)
    for name in ("results.json", "predictions.json", "nbest_predictions.json"):
        (parted / name).unlink()
    for later in sorted((parted / "checkpoints").iterdir())[1:]:
        for file in later.iterdir():
            file.write_bytes(b"")
    assert run_recipe("finetune_qa", *settings, "--output", parted, "--resume") == 0
    assert read_run(parted)[0] == read_run(reader)[0]
    names = ("model/model.safetensors", "predictions.json", "nbest_predictions.json", "null_odds.json")
    assert all((parted / name).read_bytes() == (reader / name).read_bytes() for name in names)


def test_answers(reader, files, run_recipe, tmp_path, capsys, uncompiled):
    """From a text, for a person and as lines of JSON; and for pairs by predict."""
    context = "The old cat sleeps near the garden.\nThe young dog\truns near the tower."
    (tmp_path / "text.txt").write_text(context)
    (tmp_path / "questions.txt").write_text("Near the what?\n\nWho slept?\n")
    argv = ["--model", reader, "--context", tmp_path / "text.txt", "--sequence_length", "24", "--n_best", "2"]
    capsys.readouterr()
    question = "Near the what?"
    assert run_recipe("answer", *argv, "--question", question, "--null_threshold", "1e9") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == question and len(lines) == 3 and "  characters " in lines[1]
    output = tmp_path / "answers.jsonl"
    asked = ["--file", tmp_path / "questions.txt", "--output", output]
    assert run_recipe("answer", *argv, *asked) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["question"] for row in rows] == [question] * 2 + ["Who slept?"] * 2
    for row in rows:
        assert (row["answer"] == "") == (row["start"] is None)
        assert row["answer"] == "" or context[row["start"] : row["end"]] == row["answer"]
        assert 0 <= row["score"] <= 1
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "one.txt").write_text(context)
    (docs / "two.txt").write_text("Nothing of the kind is here, but other words.")
    argv = ["--model", reader, "--documents", docs, "--sequence_length", "24", "--null_threshold", "1e9"]
    argv += ["--num_passages", "1"]
    for _ in range(2):  # the second time from the index that is there
        assert run_recipe("answer", *argv, "--question", "cat near the garden", "--output", output) == 0
    row = json.loads(output.read_text().splitlines()[0])
    assert row["file"] == "one.txt" and context[row["start"] : row["end"]] == row["answer"]
    (docs / "one.txt").write_text("The young dog runs near the tower. " + context)
    assert run_recipe("answer", *argv, "--question", "cat near the garden") == 0
    assert "building it anew" in capsys.readouterr().out
    _judge_answers(reader, files, run_recipe, tmp_path)
    capsys.readouterr()
    assert run_recipe("predict", "--model", reader, "--text", f"{question}\tA cat near the tower.") == 0
    assert capsys.readouterr().out.endswith(f"\t{question}\n")
    for wrong in (["--text", "no pair"], ["--text", "a\tb", "--sequence_length", "64"]):
        assert run_recipe("predict", "--model", reader, *wrong) == 2


def _judge_answers(reader, files, run_recipe, tmp_path):
    """Each context is a document: with all of them read for a question, its answer is found as often or less."""
    paragraphs = json.loads((files / "dev.json").read_text())["data"][0]["paragraphs"]
    documents = tmp_path / "documents.jsonl"
    rows = [{"id": str(number), "text": each["context"]} for number, each in enumerate(paragraphs)]
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--model", reader, "--file", files / "dev.json", "--sequence_length", "32"]
    argv += ["--figures", tmp_path / "figures.json", "--num_passages", "2"]
    assert run_recipe("evaluate_answers", *argv, "--documents", documents) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    whole = json.loads((reader / "results.json").read_text())["validation"]
    assert figures["examples"] == 16 and figures["given"]["f1"] == pytest.approx(whole["f1"], abs=1e-9)
    assert figures["f1_share"] == pytest.approx(figures["f1"] / whole["f1"])
    assert 0 < figures["passages_with_answer"] <= 1
    assert run_recipe("evaluate_answers", *argv) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--document_stride", "29"), "--document_stride 29 leaves no room in --sequence_length 32"),
        (("--sequence_length", "64"), "--sequence_length 64 is above the 32 positions"),
        (("--validation", "{bad}"), "bad.json: data[0].paragraphs[0].qas[0] (id 'a'): the question is 3"),
        (
            ("--train", "{dirty}", "--strict"),
            "dirty.json: data[0].paragraphs[0].qas[0] (id 'a'): the answer 'on'",
        ),
        (("--train", "{lost}"), "--train {lost}: no question has an answer with a known place"),
        (("--max_answer_length", "0"), "--max_answer_length is 0"),
        (("--monitor", "accuracy"), "--monitor"),
        (
            ("--train", "{text}"),
            "text.txt: questions are .json, .jsonl, .parquet or hub:ID; --cloze true makes",
        ),
        (("--validation", "{text}"), "text.txt: questions are .json, .jsonl, .parquet or hub:ID\n"),
        (("--train", "{text}", "--cloze"), "text.txt: no question can be made from it"),
    ],
)
def test_bad_settings(change, message, settings, run_recipe, tmp_path, capsys):
    for name, question, answer in (("bad", 3, "a"), ("dirty", "Who?", "on"), ("lost", "Who?", "it")):
        asked = {"id": "a", "question": question, "answers": [{"text": answer, "answer_start": 0}]}
        content = {"data": [{"paragraphs": [{"context": "A cat on a mat.", "qas": [asked]}]}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "text.txt").write_text("A cat on a mat.")
    paths = {name: str(tmp_path / f"{name}.json") for name in ("bad", "dirty", "lost")}
    paths["text"] = str(tmp_path / "text.txt")
    argv = [value.format(**paths) for value in change]
    assert run_recipe("finetune_qa", *settings, "--output", tmp_path / "run", *argv) == 2
    error = capsys.readouterr().err
    assert message.format(**paths) in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((), "give a --question, or a --file"),
        (("--question", " "), "--question: a question is empty"),
        (("--question", "Who?", "--context", "{empty}"), "empty.txt: holds no text"),
        (("--file", "{empty}"), "empty.txt: holds no questions"),
        (("--question", "Who?", "--context", "nowhere.txt"), "nowhere.txt: no such file"),
        (("--question", "Who?", "--sequence_length", "64"), "above the 32 positions"),
        (("--question", "Who?", "--document_stride", "30"), "document_stride is 30"),
        (("--question", "Who?", "--model", "{pretrained}"), "not a reader; finetune_qa trains one"),
    ],
)
def test_bad_questions(change, message, reader, pretrained, run_recipe, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("A cat.")
    (tmp_path / "empty.txt").write_text("\n")
    change = [value.format(empty=tmp_path / "empty.txt", pretrained=pretrained) for value in change]
    argv = ["--model", reader, "--context", tmp_path / "text.txt", "--output", tmp_path / "out.jsonl"]
    capsys.readouterr()
    assert run_recipe("answer", *argv, *change) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
