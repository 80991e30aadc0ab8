"""Translation end to end: a run, its figures, translations of it, and bad input."""

import io
import json
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("sacrebleu", reason="sacrebleu, of the extra `translation`, is not installed")

WORDS = {
    "red": "rot",
    "blue": "blau",
    "cat": "Katze",
    "dog": "Hund",
    "sleeps": "schläft",
    "runs": "läuft",
    "and": "und",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sentences of seven words and their translation, word by word."""
    folder = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    for name, count in (("train", 256), ("test", 8)):
        lines = []
        for _ in range(count):
            first, second = ([random.choice(list(WORDS)[i : i + 2]) for i in (0, 2, 4)] for _ in range(2))
            lines.append([*first, "and", *second])
        (folder / f"{name}.en").write_text("".join(" ".join(line) + "\n" for line in lines))
        translated = (" ".join(WORDS[word] for word in line) for line in lines)
        (folder / f"{name}.de").write_text("".join(line + "\n" for line in translated), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def options(files):
    pair = [[str(files / f"{name}.{side}") for side in ("en", "de")] for name in ("train", "test")]
    return [
        *("--train", *pair[0], "--test", *pair[1], "--vocabulary_size", "300", "--size", "tiny"),
        *(
            "--model.num_layers",
            "1",
            "--model.hidden_dim",
            "64",
            "--model.dropout",
            "0",
            "--model.intermediate_dim",
            "128",
        ),
        *(
            "--max_length",
            "16",
            "--batch_tokens",
            "512",
            "--steps",
            "400",
            "--warmup",
            "20",
            "--learning_rate",
            "2e-3",
        ),
        *("--num_beams", "2", "--checkpoint_steps", "50", "--eval_interval", "400"),
    ]


@pytest.fixture(scope="module")
def translator(options, run_recipe, tmp_path_factory, without_compiling):
    output = tmp_path_factory.mktemp("translator") / "run"
    with without_compiling(eagerly=False):
        assert run_recipe("train_translation", *options, "--output", output) == 0
    return output


def test_a_run_learns_to_translate(translator, read_run, run_recipe, files, capsys, tmp_path):
    lines, results = read_run(translator)
    assert results["test"]["bleu"] > 90 and results["test"]["chrf"] > 90
    assert results["test"]["signature"].startswith("nrefs:1|case:mixed")
    assert results["test"]["loss"] < 0.3 < lines[-1]["loss"]  # the loss of training has label smoothing
    saved = json.loads((translator / "model" / "config.json").read_text())
    assert saved["architectures"] == ["MarianMTModel"]
    assert saved["pad_token_id"] == saved["vocab_size"] - 1 == saved["decoder_start_token_id"]
    capsys.readouterr()
    argv = ["--model", translator, "--file", files / "test.en", "--output", translator / "found.txt"]
    assert run_recipe("translate", *argv, "--reference", files / "test.de") == 0
    assert "BLEU " in capsys.readouterr().err
    expected = (files / "test.de").read_text(encoding="utf-8")
    assert (translator / "found.txt").read_text(encoding="utf-8") == expected
    argv = [
        "--model",
        translator,
        "--text",
        "red dog runs and blue cat sleeps",
        "",
        "--n_best",
        "2",
        "--scores",
        "--num_beams",
        "3",
    ]
    assert run_recipe("translate", *argv) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["translations"][0]["text"] == "rot Hund läuft und blau Katze schläft" and second[
        "translations"
    ] == [{"text": "", "score": 0.0}]
    assert first["translations"][0]["score"] > first["translations"][1]["score"]
    argv = ["--model", translator, "--text", "red dog runs", "--temperature", "1e-3"]
    picture = tmp_path / "attention.png"
    assert run_recipe("translate", *argv, "--attention", picture) == 0
    assert capsys.readouterr().out.startswith("rot Hund")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run_recipe("translate", *argv, "--num_beams", "2") == 2
    assert "num_beams 2 searches" in capsys.readouterr().err


def test_interrupted_it_ends_the_same(options, run_recipe, read_run, tmp_path, uncompiled):
    """With the mean of the last weights, begun before the interruption and as far apart as at first; the latest
    checkpoint is damaged, and new ones come more often.
    """
    short = [
        "--steps",
        "6",
        "--checkpoint_steps",
        "2",
        "--eval_interval",
        "6",
        "--warmup",
        "2",
        "--num_beams",
        "1",
    ]
    short += ["--average", "3", "--keep", "9", "--model.dropout", "0.1", "--output"]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run_recipe("train_translation", *options, *short, whole) == 0
    shutil.copytree(whole, parted)
    (parted / "results.json").unlink()
    for later in sorted((parted / "checkpoints").iterdir())[1:]:
        for file in later.iterdir():
            file.write_bytes(b"")
    again = ["--output", parted, "--resume", "--checkpoint_steps", "1"]
    assert run_recipe("train_translation", *again) == 0
    assert read_run(parted)[0] == read_run(whole)[0]
    name = "model/model.safetensors"
    assert (parted / name).read_bytes() == (whole / name).read_bytes()


def test_a_recurrent_model_with_attention(options, files, run_recipe, tmp_path, capsys, uncompiled):
    model = [position for position, word in enumerate(options) if word.startswith("--model.")]
    plain = [word for position, word in enumerate(options) if {position, position - 1}.isdisjoint(model)]
    plain += ["--steps", "2", "--warmup", "1", "--num_beams", "1", "--cell", "gru", "--model.hidden_dim", "8"]
    assert run_recipe("train_translation", *plain, "--output", tmp_path / "run") == 0
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (saved["cell"], saved["hidden_dim"]) == ("gru", 8)
    argv = ["--model", tmp_path / "run", "--text", "red dog", "--attention", tmp_path / "attention.png"]
    assert run_recipe("translate", *argv) == 0 and (tmp_path / "attention.png").is_file()
    capsys.readouterr()
    again = [
        "--init",
        tmp_path / "run",
        "--output",
        tmp_path / "again",
        "--cell",
        "lstm",
        "--max_length",
        "16",
    ]
    assert run_recipe("train_translation", "--train", files / "train.en", files / "train.de", *again) == 2
    assert "has gru cells: leave --cell out" in capsys.readouterr().err
    heads = ["--model.num_heads", "2", "--output", tmp_path / "other"]
    assert run_recipe("train_translation", *plain, *heads) == 2
    assert "--model.num_heads is a Transformer's" in capsys.readouterr().err


@pytest.mark.filterwarnings("always::kerasllm.errors.InputWarning")
def test_tags_of_several_languages(options, files, run_recipe, tmp_path, capsys, monkeypatch, uncompiled):
    """Tags before the sources are tokens, and a short run needs no --warmup; long sources are cut, and told."""
    lines = (files / "train.en").read_text(encoding="utf-8").splitlines()
    tagged = [f">>{'fr' if number % 2 else 'de'}<< {line}" for number, line in enumerate(lines)]
    (tmp_path / "tagged.en").write_text("\n".join(tagged), encoding="utf-8")
    train = ["--train", tmp_path / "tagged.en", files / "train.de"]
    start = options.index("--vocabulary_size")
    rest = [word for word in options[start:] if word not in ("--warmup", "20")]
    rest += ["--max_length", "32", "--steps", "2"]
    assert run_recipe("train_translation", *train, *rest, "--output", tmp_path / "run") == 0
    assert "no validation and no test data; see --validation\n" in capsys.readouterr().out
    assert "warmup: 1\n" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    texts = ["--text", "red dog", "red dog " * 40, "--num_beams", "1"]
    assert run_recipe("translate", "--model", tmp_path / "run", *texts, "--target_tag", ">>fr<<") == 0
    assert "note: 1 of 2 texts were cut to 32 tokens" in capsys.readouterr().err
    assert run_recipe("translate", "--model", tmp_path / "run", *texts, "--target_tag", "d") == 2
    assert "has no such tag" in capsys.readouterr().err  # although there is such a piece
    assert run_recipe("evaluate", "--model", tmp_path / "run", "--corpus", files / "train.en") == 2
    assert "which evaluate does not use: kerasllm translate" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"red\n\xff\n"), encoding="utf-8"))
    for text, message in (
        ([], "byte 0xff is not UTF-8"),
        (["--text", "a\udcff"], "half of a surrogate pair"),
    ):
        assert run_recipe("translate", "--model", tmp_path / "run", *text) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "tagged.en").write_text("\n".join(f">>it<< {line}" for line in lines), encoding="utf-8")
    again = ["--init", tmp_path / "run", "--max_length", "32", "--output", tmp_path / "again"]
    assert run_recipe("train_translation", *train, *again) == 2
    assert "sources begin with the tag >>it<<, which the vocabulary lacks" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--validation", "{folder}/train.en", "{folder}/test.de"], "test.de: ends after line 8"),
        (["--validation", "{folder}/train.en"], "one text file has no targets"),
        (["--vocabulary_size", "200"], "vocabulary_size 200 is too small"),
        (["--model.num_heads", "3"], "--model.hidden_dim 64 does not divide by num_heads 3"),
        (["--patience", "2"], "--patience needs --validation"),
        (
            [
                "--average",
                "9",
                "--train",
                "{folder}/none.en",
                "{folder}/none.de",
            ],  # told before data are read
            "checkpoints 50 steps apart do not fit into 400 steps; average at most 8",
        ),
        (["--average", "2", "--ema", "0.9"], "--average and --ema end the run with different weights"),
    ],
)
def test_bad_settings(change, message, options, files, run_recipe, tmp_path, capsys):
    change = [value.replace("{folder}", str(files)) for value in change]
    assert run_recipe("train_translation", *options, "--output", tmp_path / "run", *change) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_told_before_the_training(options, run_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert run_recipe("train_translation", *options, "--output", tmp_path / "run") == 2
    assert "BLEU needs sacrebleu: pip install 'kerasllm[translation]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
