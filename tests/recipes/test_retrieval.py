"""From pairs to an encoder, to vectors, to an index and to results; and what a user may get wrong."""

import json
import re
import signal

import numpy as np
import pytest

from kerasllm import cli
from kerasllm.data.sources.judgements import read_run
from kerasllm.retrieval.figures import retrieval_figures
from kerasllm.tasks.predictor import Predictor
from kerasllm.tasks.reranking import Reranker
from kerasllm.tasks.sentence_encoder import SentenceEncoder
from kerasllm.training.callbacks.metrics_log import MetricsLog

ANIMALS = ["cat", "dog", "fox", "owl", "hen", "bat"]
SIDES = ["north", "east", "south", "west"]


def question(number):
    return f"which {ANIMALS[number % 6]} waits {SIDES[number % 4]} of the house ?"


def passage(number):
    return f"The old {ANIMALS[number % 6]} sings {SIDES[number % 4]} of the garden and the tower ."


@pytest.fixture(scope="module")
def run_retrieve(recipe):
    """Runs a command of retrieve with a command line; returns the exit code."""

    def run(*argv):
        try:
            cli.run_command(recipe("retrieve").COMMANDS, [str(argument) for argument in argv])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    numbers = range(12)
    contents = {
        "pairs.tsv": "".join(f"{question(n)}\t{passage(n)}\n" for n in numbers),
        "graded.tsv": "".join(f"{question(n)}\t{passage(n + n % 3)}\t{n % 3}\n" for n in numbers),
        "triplets.tsv": "".join(f"{question(n)}\t{passage(n)}\t{passage(n + 5)}\n" for n in numbers),
        "texts.txt": "".join(passage(n) + "\n" for n in numbers),
        "documents.tsv": "".join(f"d{n}\t{passage(n)}\n" for n in numbers),
        "queries.tsv": "".join(f"q{n}\t{question(n)}\n" for n in numbers),
        "qrels": "".join(f"q{n} 0 d{n} 1\n" for n in numbers),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


TINY = ["--size", "tiny", "--model.num_layers", "1", "--model.num_heads", "2", "--model.hidden_dim", "16"]
TINY += ["--model.max_sequence_length", "32", "--sequence_length", "32", "--vocabulary_size", "120"]
TINY += ["--batch_size", "6", "--learning_rate", "1e-2", "--model.dropout", "0.1", "--seed", "1"]


@pytest.fixture(scope="module")
def encoder(files, run_recipe, without_compiling, tmp_path_factory):
    """An encoder, trained from scratch on pairs."""
    output = tmp_path_factory.mktemp("encoder") / "run"
    argv = ["--train", files / "pairs.tsv", "--text_columns", "0,1", "--validation", files / "pairs.tsv"]
    with without_compiling(eagerly=False):
        assert run_recipe("finetune_embeddings", *argv, "--epochs", "6", "--output", output, *TINY) == 0
    return output


def test_training_brings_pairs_together(encoder, read_run):
    lines, results = read_run(encoder)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert results["task"] == "embedding"
    assert set(results["validation"]) == {"loss", "examples", "mrr@10", "recall@1"}
    assert results["validation"]["mrr@10"] > 0.6
    assert (encoder / "model" / "modules.json").is_file()
    assert "BertEncoder" in (encoder / "model" / "README.md").read_text()


def test_vectors_are_written(encoder, files, run_recipe, tmp_path, capsys):
    output = tmp_path / "vectors.npy"
    assert run_recipe("embed", "--model", encoder, "--file", files / "texts.txt", "--output", output) == 0
    vectors = np.load(output)
    assert vectors.shape == (12, 16) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    capsys.readouterr()
    assert run_recipe("embed", "--model", encoder, "--text", passage(3), "--dim", "4") == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    cut = vectors[3, :4] / np.linalg.norm(vectors[3, :4])
    np.testing.assert_allclose(row["vector"], cut, atol=1e-4)
    assert run_recipe("predict", "--model", encoder, "--text", passage(3)) == 0
    assert passage(3) in capsys.readouterr().out


def test_indexes_are_built_searched_and_fused(encoder, files, run_recipe, run_retrieve, tmp_path, capsys):
    pytest.importorskip("bm25s", reason="bm25s is not installed in this environment")
    documents = ["--documents", files / "documents.tsv"]
    assert run_retrieve("build", "--model", encoder, *documents, "--output", tmp_path / "vectors") == 0
    assert run_retrieve("build", "--model", "bm25", *documents, "--output", tmp_path / "words") == 0
    capsys.readouterr()
    argv = ["--queries", files / "queries.tsv", "--qrels", files / "qrels", "--figures", tmp_path / "f.json"]
    indexes = [tmp_path / "vectors", tmp_path / "words"]
    figures = []
    for given in ([indexes[0]], [indexes[1]], indexes):
        assert run_retrieve("search", "--index", *given, *argv, "--output", tmp_path / "run") == 0
        figures.append(json.loads((tmp_path / "f.json").read_text()))
        assert f"map: {figures[-1]['map']:.4f}" in capsys.readouterr().out
        # Four of the twelve have a word of the query.
        assert {len(found) for found in read_run(str(tmp_path / "run")).values()} == (
            {12} if indexes[0] in given else {4}
        )
    assert figures[0]["mrr"] > 0.6 and figures[1]["mrr"] == 1.0 and figures[2]["mrr"] > 0.8
    words, fused = tmp_path / "words.trec", tmp_path / "fused.json"
    assert run_retrieve("search", "--index", indexes[1], *argv, "--output", words) == 0
    lists = ["--run", words, tmp_path / "run", "--qrels", files / "qrels"]
    assert run_recipe("evaluate_retrieval", *lists, "--figures", fused, "--output", tmp_path / "both") == 0
    assert json.loads(fused.read_text())[str(words)] == figures[1]
    assert json.loads(fused.read_text())["fused"] == retrieval_figures(
        {f"q{n}": {f"d{n}": 1} for n in range(12)}, read_run(str(tmp_path / "both"))
    )
    assert run_recipe("evaluate_retrieval", "--run", words, "--qrels", files / "queries.tsv") == 2
    twice = ["--run", words, words, "--qrels", files / "qrels"]
    assert run_recipe("evaluate_retrieval", *twice) == 2
    assert run_recipe("evaluate_retrieval", *lists, "--output", words) == 2
    err = capsys.readouterr().err
    assert "is given twice" in err and "is read, too: give another path" in err
    assert run_retrieve("search", "--index", indexes[1], "--query", "owl in the garden", "--top_k", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("owl" in line for line in lines)


def test_a_pair_model_orders_results_anew(encoder, files, run_recipe, run_retrieve, tmp_path, capsys):
    """With an untrained model only the first results are reordered, and all are kept."""
    from kerasllm import BertClassifier, BertConfig, BertRegressor
    from kerasllm.tokenizers.loading import load_wordpiece

    tokenizer = load_wordpiece(encoder)
    config = BertConfig(
        vocabulary_size=tokenizer.get_vocab_size(),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        max_sequence_length=48,
    )
    BertRegressor(config, seed=1).save_pretrained(tmp_path / "scorer", tokenizer=tokenizer)
    classifier = BertClassifier(config, num_classes=2, seed=1)
    classifier.save_pretrained(tmp_path / "classifier", tokenizer=tokenizer)
    pairs = [(question(0), passage(0)), (question(1), "short")]
    logits = Predictor(classifier, tokenizer).predict(pairs, probabilities=True)
    odds = [np.log(row["probabilities"]["1"] / row["probabilities"]["0"]) for row in logits]
    np.testing.assert_allclose(Reranker(str(tmp_path / "classifier")).scores(pairs), odds, atol=1e-4)
    run_retrieve(
        *("build", "--model", encoder, "--documents", files / "documents.tsv", "--output", tmp_path / "index")
    )
    search = ["search", "--index", tmp_path / "index", "--queries", files / "queries.tsv"]
    assert run_retrieve(*search, "--output", tmp_path / "plain") == 0
    plain = read_run(str(tmp_path / "plain"))
    for scorer in ("scorer", "classifier"):
        more = ["--rerank", tmp_path / scorer, "--rerank_count", "4"]
        assert run_retrieve(*search, *more, "--output", tmp_path / "reranked") == 0
        reranked = read_run(str(tmp_path / "reranked"))
        for query, found in plain.items():
            before, after = list(found), list(reranked[query])
            assert set(before[:4]) == set(after[:4]) and before[4:] == after[4:]
            assert sorted(reranked[query].values(), reverse=True) == list(reranked[query].values())
    assert run_retrieve(*search, "--rerank", encoder) == 2
    assert "reranking needs a BertRegressor" in capsys.readouterr().err


@pytest.mark.usefixtures("uncompiled")
def test_graded_pairs_train_for_an_epoch(files, run_recipe, read_run, tmp_path):
    argv = ["--train", files / "graded.tsv", "--text_columns", "0,1", "--label_column", "2"]
    argv += ["--validation", files / "graded.tsv", "--matryoshka_dims", "16", "8", "--epochs", "1"]
    assert run_recipe("finetune_embeddings", *argv, "--output", tmp_path / "run", *TINY) == 0
    lines, results = read_run(tmp_path / "run")
    assert np.isfinite(lines[-1]["loss"])
    assert set(results["validation"]) == {"loss", "examples", "pearson", "spearman"}


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "argv",
    [
        ["triplets.tsv", "--text_columns", "0,1,2", "--loss", "triplet", "--margin", "0.3"],
        ["texts.txt", "--projection_dim", "4", "--pooling", "cls"],
    ],
    ids=["triplet", "simcse"],
)
def test_triplets_and_plain_text_train_for_an_epoch(argv, files, run_recipe, read_run, tmp_path):
    argv = ["--train", files / argv[0], *argv[1:], "--epochs", "1", "--output", tmp_path / "run", *TINY]
    argv += ["--validation", files / "pairs.tsv", "--held_out_columns", "0,1"]
    assert run_recipe("finetune_embeddings", *argv) == 0
    lines, results = read_run(tmp_path / "run")
    assert all(np.isfinite(line["loss"]) for line in lines) and np.isfinite(results["validation"]["loss"])


@pytest.mark.usefixtures("uncompiled")
def test_a_student_takes_on_the_vectors_of_its_teacher(encoder, files, run_recipe, read_run, tmp_path):
    """A question and its passage, as a sentence and its translation: both get the question's vector."""
    argv = ["--train", files / "pairs.tsv", "--text_columns", "0,1", "--validation", files / "pairs.tsv"]
    argv += ["--loss", "distillation", "--teacher", encoder, "--init", encoder, "--sequence_length", "32"]
    argv += ["--batch_size", "6", "--epochs", "5", "--learning_rate", "1e-2", "--seed", "1"]
    assert run_recipe("finetune_embeddings", *argv, "--output", tmp_path / "run") == 0
    lines, _ = read_run(tmp_path / "run")
    assert lines[-1]["loss"] < lines[0]["loss"]
    teacher, student = (SentenceEncoder.open(str(source)) for source in (encoder, tmp_path / "run"))
    wanted = teacher.encode([question(number) for number in range(12)])
    found = student.encode([passage(number) for number in range(12)])
    before = teacher.encode([passage(number) for number in range(12)])
    assert ((found - wanted) ** 2).mean() < ((before - wanted) ** 2).mean()


@pytest.mark.usefixtures("uncompiled")
def test_a_run_in_parts_is_resumed_bit_for_bit(files, run_recipe, read_run, tmp_path, monkeypatch):
    argv = ["--train", files / "pairs.tsv", "--text_columns", "0,1", "--validation", files / "pairs.tsv"]
    argv += ["--mini_batch_size", "3", "--epochs", "2", *TINY]
    assert run_recipe("finetune_embeddings", *argv, "--output", tmp_path / "whole") == 0
    original, told = MetricsLog.on_step_end, []

    def on_step_end(self, step, values):
        original(self, step, values)
        if step == 2 and not told:
            told.append(step)
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_step_end", on_step_end)
        assert run_recipe("finetune_embeddings", *argv, "--output", tmp_path / "run") == 143
    assert run_recipe("finetune_embeddings", *argv, "--output", tmp_path / "run", "--resume") == 0
    assert read_run(tmp_path / "run")[0] == read_run(tmp_path / "whole")[0]
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--loss", "triplet"], "--loss triplet needs three --text_columns"),
        (["--loss", "cosent"], "--loss cosent is for graded pairs: give --label_column"),
        (["--loss", "distillation"], "--loss distillation and --teacher belong together"),
        (["--monitor", "spearman", "--validation", "pairs.tsv"], "--monitor spearman is no figure"),
        (["--matryoshka_dims", "32"], r"--matryoshka_dims \[32\]: the vectors have 16 numbers"),
        (["--validation", "texts.txt", "--held_out_columns", "0"], "no tab in its first line"),
    ],
)
def test_training_refuses_what_does_not_fit(argv, message, files, run_recipe, tmp_path, capsys):
    argv = [files / word if str(word).endswith((".tsv", ".txt")) else word for word in argv]
    base = ["--train", files / "pairs.tsv", "--text_columns", "0,1", "--output", tmp_path / "run", *TINY]
    assert run_recipe("finetune_embeddings", *base, *argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error


def test_bad_input_is_refused_in_one_line(files, run_recipe, run_retrieve, tmp_path, capsys):
    cases = [
        ((), "a command is missing: begin with build or search"),
        (("find",), "'find' is no command"),
        (("search", "--index", tmp_path, "--query", "x"), "it is no index; build one first"),
        (("search", "--index", tmp_path), "give either --query or --queries"),
        (("search", "--index", tmp_path, "--query", "x", "--qrels", "q"), "are for --queries"),
        (
            ("build", "--model", tmp_path, "--documents", "x", "--output", tmp_path / "i"),
            "holds no config.json",
        ),
        (("build", "--model", "bm25", "--documents", tmp_path / "x", "--output", tmp_path / "i"), "x"),
        (("build", "--model", "bm25", "--documents", files / "qrels", "--output", tmp_path / "i"), "qrels:1"),
    ]
    for argv, message in cases:
        assert run_retrieve(*argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
    assert not any(tmp_path.iterdir())
    output = ["--output", tmp_path / "v.npy"]
    for argv, message in [
        (["--text", "a", "--output", "v.txt"], "are written to .npy or .jsonl files"),
        (["--text", " "], "--text: a text is empty"),
        ([*output], "give either --text or --file"),
        (["--file", files / "pairs.tsv", "--text_columns", "0,1", *output], "name one column"),
    ]:
        assert run_recipe("embed", "--model", tmp_path, *argv) == 2
        assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
