"""The recipes of recurrent models end to end, on the animals of conftest.py."""

import json
import signal

import numpy as np
import pytest

from kerasllm import RecurrentConfig, RecurrentLM
from kerasllm.tokenizers.words import train_words
from kerasllm.training.callbacks.metrics_log import MetricsLog

MODEL = ["--model.num_layers", "1", "--model.hidden_dim", "24", "--learning_rate", "1e-2"]


def training_options(corpus, output):
    return [
        *("--corpus", corpus, "--output", output, "--tokenizer", "characters", "--cell", "gru", *MODEL),
        *("--steps", "24", "--context_length", "16", "--batch_size", "8", "--processes", "1", "--seed", "3"),
        *(
            "--eval_interval",
            "12",
            "--model.dropout",
            "0.1",
            "--sample_tokens",
            "8",
            "--validation_lanes",
            "4",
        ),
    ]


@pytest.fixture(scope="module")
def trained(corpus, run_recipe, without_compiling, tmp_path_factory):
    path = tmp_path_factory.mktemp("recurrent") / "run"
    with without_compiling(eagerly=False):
        assert run_recipe("pretrain_recurrent", *training_options(corpus, path)) == 0
    return path


def test_a_run_learns_and_tells_both_losses(trained, read_run):
    lines, results = read_run(trained)
    assert [line["step"] for line in lines][-1] == 24 and lines[-1]["loss"] < lines[0]["loss"] - 0.3
    validation = results["validation"]
    assert validation["loss"] < 3 and validation["loss_without_carried_state"] < 3.2
    assert json.loads((trained / "model" / "config.json").read_text())["cell"] == "gru"


@pytest.mark.usefixtures("without_xla")
def test_interrupted_and_resumed_it_ends_with_the_same_bytes(
    trained, corpus, run_recipe, read_run, tmp_path, monkeypatch, capsys
):
    plain = MetricsLog.on_step_end

    def interrupt(self, step, values):
        plain(self, step, values)
        if step == 15:
            signal.raise_signal(signal.SIGTERM)

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_step_end", interrupt)
        assert run_recipe("pretrain_recurrent", *training_options(corpus, path)) == 143
    capsys.readouterr()
    assert run_recipe("pretrain_recurrent", "--output", path, "--resume", "--batch_size", "4") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "batch_size 8, not 4" in line
    assert run_recipe("pretrain_recurrent", "--output", path, "--resume") == 0
    assert read_run(path)[0] == read_run(trained)[0]
    for name in ("model/model.safetensors", "model/config.json", "samples.jsonl"):
        assert (path / name).read_bytes() == (trained / name).read_bytes()


def test_texts_are_continued_and_scored(trained, corpus, run_recipe, tmp_path, capsys):
    assert run_recipe("generate", "--model", trained, "--prompt", "The old", "--max_new_tokens", "5") == 0
    text = capsys.readouterr().out.rstrip("\n")
    assert text.startswith("The old") and len(text) <= 12
    text = tmp_path / "held_out.txt"
    text.write_text(corpus.read_text()[:400])
    figures = []
    for name, options in (("carried", []), ("windows", ["--context_length", "16", "--stride", "16"])):
        output = tmp_path / f"{name}.json"
        argv = ["--model", trained, "--corpus", text, "--batch_size", "2", "--processes", "1"]
        assert run_recipe("evaluate", *argv, *options, "--output", output) == 0
        figures.append(json.loads(output.read_text()))
    assert figures[0]["tokens"] == figures[1]["tokens"] and figures[0]["lanes"] == 2
    assert figures[0]["loss"] != figures[1]["loss"]
    assert run_recipe("evaluate", *argv, "--stride", "4") == 2
    assert "--stride is for windows" in capsys.readouterr().err


@pytest.mark.usefixtures("uncompiled")
def test_figures_of_bytes_need_words_that_are_known(run_recipe, tmp_path):
    """`<unk>` stands for any word, so that its probability tells nothing of the bytes."""
    tokenizer = train_words(["the cat sees the dog"] * 3, 7)
    size = tokenizer.get_vocab_size()
    config = RecurrentConfig(vocabulary_size=size, num_layers=1, hidden_dim=8, embedding_dim=8)
    RecurrentLM(config, seed=0).save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    for text, unknown in (("the dog sees the cat", 0), ("the bird sees a cat", 2)):
        (tmp_path / "text.txt").write_text(text)
        argv = ["--model", tmp_path / "model", "--corpus", tmp_path / "text.txt", "--processes", "1"]
        assert run_recipe("evaluate", *argv, "--output", tmp_path / "figures.json") == 0
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures.get("unknown_tokens", 0) == unknown
        assert ("bits_per_byte" in figures) == (not unknown)


@pytest.mark.usefixtures("uncompiled")
def test_what_does_not_fit_the_checkpoint_is_refused(trained, corpus, run_recipe, tmp_path, capsys):
    given = ["--corpus", corpus, "--init", trained, "--output", tmp_path / "other"]
    for option, message in (
        (["--cell", "lstm"], "--cell is lstm, the model of"),
        (["--model.hidden_dim", "8"], "--model.hidden_dim cannot change a checkpoint"),
        (["--tokenizer", "words"], "--tokenizer words trains a new one"),
        (["--batch_size", "5000"], "5000 lanes of --context_length 64 tokens are more than the corpus"),
    ):
        assert run_recipe("pretrain_recurrent", *given, *option) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
        assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("without_xla")
@pytest.mark.filterwarnings("ignore:.*new, with initial values")
def test_a_classifier_from_the_language_model(trained, make_rows, run_recipe, read_run, tmp_path, capsys):
    rows = [(first, label) for first, _, label, _ in make_rows(64, 1)]
    table = tmp_path / "train.tsv"
    table.write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    options = [
        "--train",
        table,
        "--validation_fraction",
        "0.25",
        "--text_columns",
        "0",
        "--label_column",
        "1",
    ]
    shape = ["--init", trained, "--epochs", "4", "--batch_size", "8", "--sequence_length", "48"]
    output = tmp_path / "classifier"
    rate = ["--learning_rate", "1e-2", "--output", output]
    assert run_recipe("finetune_recurrent", *options, *shape, *rate) == 0
    _, results = read_run(output)
    assert results["validation"]["accuracy"] > 0.8
    capsys.readouterr()
    assert run_recipe("predict", "--model", output, "--text", rows[0][0]) == 0
    assert capsys.readouterr().out.split("\t")[0] in ("cats", "dogs")
    for recipe, asked in (("generate", ["--prompt", "a"]), ("evaluate", ["--corpus", table])):
        assert run_recipe(recipe, "--model", output, *asked) == 2
        assert "kerasllm predict --model" in capsys.readouterr().err
    assert run_recipe("predict", "--model", output, "--text", "\u6f22") == 2
    assert "text 1: the tokenizer does not know the character '\u6f22'" in capsys.readouterr().err
    pair = [*options[:4], "--text_columns", "0,0", *options[6:]]
    assert run_recipe("finetune_recurrent", *pair, "--output", tmp_path / "pair") == 2
    assert np.all([not (tmp_path / "pair").exists()])
    with table.open("a", encoding="utf-8") as file:
        file.write(f"a \u6f22 cat\t{rows[0][1]}\n")
    strange = [*options[:2], *options[4:], "--validation", table, *shape, "--output", tmp_path / "strange"]
    assert run_recipe("finetune_recurrent", *strange) == 2
    assert "train.tsv:65: the tokenizer does not know the character '\u6f22'" in capsys.readouterr().err
    assert not (tmp_path / "strange").exists()
