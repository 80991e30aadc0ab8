"""What people get wrong: one line that names it, exit code 2, within seconds, and nothing left behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kerasllm.errors import InputError
from kerasllm.training import job

pytestmark = pytest.mark.usefixtures("uncompiled")

WORDS = ["cat", "dog", "sat", "on", "a", "mat", "ran", "home", "big", "red", "tree", "green", "slow"]
SHAPE = [
    "--model.num_layers",
    "1",
    "--model.num_heads",
    "2",
    "--model.hidden_dim",
    "8",
    "--vocabulary_size",
    "64",
]
PRETRAIN = [
    *SHAPE,
    *["--sequence_length", "16", "--batch_size", "4", "--steps", "2", "--output", "out", "--processes", "1"],
]
UNVALIDATED = ["--validation_fraction", "0"]  # an evaluation would have to be compiled
FINETUNE = [*SHAPE, *["--sequence_length", "16", "--batch_size", "8", "--epochs", "1", "--output", "out"]]
GOOD = ["--corpus", "good.txt"]
# What --init and --resume are given: no shape, as it would be refused.
GO_ON = [*GOOD, *["--sequence_length", "16", "--batch_size", "4", "--steps", "2", "--output", "out"]]
TUNE_ON = [
    "--train",
    "train.tsv",
    "--sequence_length",
    "16",
    "--batch_size",
    "8",
    "--epochs",
    "1",
    "--output",
    "out",
]


def sentence(draw: np.random.Generator) -> str:
    return " ".join(draw.choice(WORDS, draw.integers(4, 9))).capitalize() + "."


def write_corpora(place: Path) -> None:
    draw = np.random.default_rng(0)

    def documents(number: int, sentences: int) -> str:
        return "\n\n".join(" ".join(sentence(draw) for _ in range(sentences)) for _ in range(number)) + "\n"

    texts = {"good": (24, 5), "one_document": (1, 40), "one_sentence": (24, 1)}
    for name, numbers in texts.items():
        (place / f"{name}.txt").write_text(documents(*numbers))
    (place / "empty.txt").touch()
    (place / "blank.txt").write_text("\n \n\t\n")
    (place / "controls.txt").write_text("\x01\x02\n\n\x03\n")
    (place / "binary.txt").write_bytes(draw.integers(0, 256, 4000, dtype=np.uint8).tobytes())
    (place / "latin.txt").write_bytes(b"A cat sat.\nA caf\xe9 on a mat.\n")
    (place / "no_text").mkdir()
    (place / "no_text" / "a.bin").write_bytes(b"a")
    (place / "broken.jsonl").write_text('{"text": "A cat sat."}\n{"text": "A dog\n')
    (place / "fields.jsonl").write_text('{"text": "A cat sat."}\n{"body": "A dog ran."}\n')
    (place / "a.yaml").write_text("learning_rat: 1\n")
    (place / "b.yaml").write_text("steps: many\n")
    (place / "other").mkdir()
    (place / "other" / "notes").write_text("mine")
    (place / "file").write_text("mine")


def write_tables(place: Path) -> None:
    draw = np.random.default_rng(1)
    rows = [f"{sentence(draw)}\t{('negative', 'positive')[i % 2]}" for i in range(16)]
    numbers = [f"{sentence(draw)}\t{i / 7:.3f}" for i in range(12)]
    head = "sentence\tlabel"
    tables = {
        "train": [head, *rows],
        "no_header": rows,
        "few": [head, *rows[:5], "no label", *rows[5:]],
        "unseen": [head, *rows[:5], "A cat.\tpostive"],
        "one_class": [head, *rows[::2]],
        "numbers": [head, *numbers],
        "nan": [head, *numbers, "A cat.\tnan"],
        "header_only": [head],
        "empty_text": [head, *rows[:2], "\tpositive"],
        "quotes": [head, *['"A cat sat\tpositive', 'a "dog" ran\tnegative'] * 4],
        "long": [head, *(f"{'cat ' * 99}\t{row.split(chr(9))[1]}" for row in rows)],
    }
    for name, lines in tables.items():
        (place / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    (place / "bom.tsv").write_bytes(b"\xef\xbb\xbf" + (place / "train.tsv").read_bytes())
    (place / "crlf.tsv").write_bytes((place / "train.tsv").read_bytes().replace(b"\n", b"\r\n"))
    shutil.copy(place / "binary.txt", place / "binary.tsv")


def write_damaged_models(place: Path) -> None:
    """Copies of the model of `run`, each with one fault."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(place / "run" / "model", place / name))

    def settings(name: str, **changes) -> None:
        file = copy(name) / "config.json"
        content = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    settings("gpt2", model_type="gpt2")
    settings("vast", vocab_size=10**12)
    settings("deep", num_hidden_layers=10**9)
    settings("wide", intermediate_size=10**12)
    settings("words", vocab_size="many")
    settings("keyless", hidden_size=None)
    settings("nameless", architectures=5)
    settings("numbered", architectures=["BertForSequenceClassification"], id2label=5)
    settings("headless", architectures=["BertForSequenceClassification"])
    weights = copy("cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    weights = copy("shape") / "model.safetensors"
    tensors = load_file(weights)
    tensors["bert.encoder.layer.0.attention.self.query.weight"] = np.zeros((3, 8), np.float32)
    save_file(tensors, weights)
    (copy("no_weights") / "model.safetensors").unlink()
    (copy("no_tokenizer") / "tokenizer.json").unlink()
    (copy("broken_tokenizer") / "tokenizer.json").write_text("{")
    file = copy("no_mask") / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[MASK]"]
    content["model"]["vocab"]["[MUSK]"] = content["model"]["vocab"].pop("[MASK]")
    file.write_text(json.dumps(content))
    file = copy("misfit") / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {f"more{i}": 64 + i for i in range(9)}
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory, run_recipe, without_compiling):
    """A directory with good and bad inputs, a finished run, an interrupted one, and damaged models."""
    place = tmp_path_factory.mktemp("bad")
    write_corpora(place)
    write_tables(place)
    with pytest.MonkeyPatch.context() as patch, without_compiling():
        patch.chdir(place)
        patch.setenv("KERASLLM_CACHE", str(place / "cache"))
        assert run_recipe("pretrain_bert", *GOOD, *PRETRAIN, *UNVALIDATED, "--output", "run") == 0
        assert run_recipe("finetune_bert", "--train", "train.tsv", *FINETUNE, "--output", "tuned") == 0
    shutil.copytree(place / "run", place / "interrupted")
    (place / "interrupted" / "results.json").unlink()
    shutil.copytree(place / "interrupted", place / "unfinished")
    shutil.rmtree(place / "unfinished" / "model")
    write_damaged_models(place)
    return place


@pytest.fixture
def inside(place, monkeypatch):
    """The same, as the working directory; offline."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("KERASLLM_CACHE", str(place / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return place


@pytest.fixture
def refused(inside, run_recipe, capfd):
    """Runs a recipe that must refuse, and returns the one line."""

    def files() -> set[Path]:
        return {path for path in inside.rglob("*") if "cache" not in path.parts}

    def refused(name: str, *argv) -> str:
        before = files()
        capfd.readouterr()
        code = run_recipe(name, *argv)
        error = capfd.readouterr().err
        assert code == 2, error
        assert error.count("\n") == 1, error
        assert error.startswith("error: ")
        assert files() == before
        return error

    return refused


CORPORA = [
    ("empty.txt", "empty.txt: the file is empty"),
    ("blank.txt", "blank.txt: nothing but blank lines"),
    ("controls.txt", "no words"),
    ("binary.txt", "binary.txt: byte", "a binary file"),
    ("latin.txt", "latin.txt:2:", "0xe9", "iconv"),
    ("missing.txt", "missing.txt: no such file"),
    ("no_text", "no_text: holds no .txt"),
    ("", "empty name"),
    ("one_document.txt", "at least two documents", "blank lines", "--objectives masked_lm"),
    ("one_sentence.txt", "two sentences", "--objectives masked_lm"),
    ("broken.jsonl", "broken.jsonl:2: not JSON"),
    ("fields.jsonl", "fields.jsonl:2: no field 'text'", "'body'", "text_column"),
    ("hub:nobody/nothing", "hub:nobody/nothing"),
    ("hub:", "not a dataset"),
]


@pytest.mark.parametrize(("corpus", "parts"), [(case[0], case[1:]) for case in CORPORA])
def test_corpora(refused, corpus, parts):
    line = refused("pretrain_bert", "--corpus", corpus, *PRETRAIN)
    assert all(part in line for part in parts), line


def test_parquet_column(refused, inside):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.table({"body": ["a"]}), inside / "a.parquet")
    assert "no column 'text'" in refused("pretrain_bert", "--corpus", "a.parquet", *PRETRAIN)


SETTINGS = [
    ("--learning_rat 1", "unknown option --learning_rat: did you mean --learning_rate?"),
    ("--size minni", "'minni' is not one of tiny, mini"),
    ("--config a.yaml", "a.yaml: unknown key 'learning_rat': did you mean learning_rate?"),
    ("--config b.yaml", "b.yaml: steps: 'many' is not a whole number"),
    ("--vocabulary_size 12", "vocabulary_size 12 is too small", "choose at least"),
    ("--vocabulary_size 0", "--vocabulary_size is 0"),
    ("--vocabulary_size -1", "--vocabulary_size is -1"),
    ("--sequence_length 3", "--sequence_length is 3, it must be at least 8"),
    ("--model.max_sequence_length 8", "--sequence_length 16 is above --model.max_sequence_length 8"),
    ("--model.num_heads 3", "--model.hidden_dim 8 does not divide by num_heads 3"),
    ("--model.hidden_dim 0", "--model.hidden_dim is 0"),
    ("--model.num_layers -1", "--model.num_layers is -1"),
    ("--model.hidden_dim 1000000000000", "out of memory", "--batch_size"),
    ("--model.dropout 1.0", "--model.dropout is 1.0, it must lie in [0, 1)"),
    ("--model.activation geluu", "'geluu' is not one of gelu"),
    ("--learning_rate nan", "--learning_rate: 'nan' is not a number"),
    ("--learning_rate -1", "--learning_rate is -1.0, it must be above 0"),
    ("--learning_rate 0", "--learning_rate is 0.0"),
    ("--steps 0", "--steps is 0"),
    ("--batch_size 0", "--batch_size is 0"),
    ("--batch_size 9999", "batch_size 9999", "lower one of these"),
    ("--eval_batches 0", "--eval_batches is 0"),
    ("--eval_interval 0", "--eval_interval is 0"),
    ("--checkpoint_steps -1", "--checkpoint_steps is -1"),
    ("--keep 0", "--keep is 0"),
    ("--clip_norm -1", "--clip_norm is -1.0"),
    ("--beta_2 1", "--beta_2 is 1.0, it must lie in [0, 1)"),
    ("--warmup 2", "warmup takes 2 of 2 steps"),
    ("--warmup -0.5", "--warmup is -0.5"),
    ("--masking_probability 0", "--masking_probability is 0.0, it must lie in (0, 1)"),
    ("--masking_probability 1", "--masking_probability is 1.0"),
    ("--masking_probability nan", "--masking_probability: 'nan'"),
    ("--objectives masked_ml", "--objectives: 'masked_ml' is not one of masked_lm"),
    ("--objectives masked_lm masked_lm", "each once"),
    ("--objectives next_sentence sentence_order", "give 'masked_lm', or one of"),
    ("--seed -1", "--seed is -1"),
    ("--validation_fraction 1", "--validation_fraction is 1.0"),
    ("--validation_fraction 0 --patience 2", "--patience needs"),
    ("--validation_corpus missing.txt", "missing.txt: no such file"),
    ("--validation_corpus one_document.txt", "validation:", "at least two documents"),
    ("--tokenizer run", "--vocabulary_size has no effect with --tokenizer"),
    ("--output other", "--output other is not empty and holds no run"),
    ("--output run", "--output run holds a finished run"),
    ("--output file", "--output file is a file"),
    ("--output file/below", "is a file, not a directory"),
    ("--output interrupted", "holds an interrupted run; add --resume"),
    ("--output interrupted --resume --seed 3", "was started with", "seed 0, not 3"),
]


@pytest.mark.parametrize(("argv", "parts"), [(case[0], case[1:]) for case in SETTINGS])
def test_settings(refused, argv, parts):
    line = refused("pretrain_bert", *GOOD, *PRETRAIN, *argv.split())
    assert all(part in line for part in parts), line


TOKENIZERS = [
    ("nowhere", "nowhere: no such tokenizer"),
    ("broken_tokenizer", "broken_tokenizer/tokenizer.json: not a tokenizer"),
    ("no_mask", "no_mask/tokenizer.json: the vocabulary lacks [MASK]"),
    ("run --lowercase", "--lowercase has no effect with --tokenizer"),
    ("run --vocabulary_size 99", "--vocabulary_size has no effect with --tokenizer"),
]


@pytest.mark.parametrize("recipe_name", ["pretrain_bert", "finetune_bert"])
@pytest.mark.parametrize(("argv", "parts"), [(case[0], case[1:]) for case in TOKENIZERS])
def test_tokenizers(refused, recipe_name, argv, parts):
    usual = GO_ON if recipe_name == "pretrain_bert" else TUNE_ON
    line = refused(recipe_name, *usual, "--tokenizer", *argv.split())
    assert all(part in line for part in parts), line


CHECKPOINTS = [
    ("nowhere/at/all", "no such directory"),
    ("other", "other: holds no config.json"),
    ("unfinished", "no finished run"),
    ("cut", "cut/model.safetensors: not a readable safetensors file"),
    ("no_weights", "holds no model.safetensors"),
    ("no_tokenizer", "holds neither tokenizer.json nor vocab.txt"),
    ("shape", "query.weight has shape (3, 8), config.json says (8, 8)", "copy the model anew"),
    ("gpt2", "gpt2/config.json: model_type is 'gpt2', only 'bert'"),
    ("vast", "word_embeddings.weight has shape", "config.json says (1000000000000, 8)"),
    ("deep", "config.json says 1000000000 layers, the weights hold"),
    ("wide", "config.json says (1000000000000, 8)"),
    ("words", "words/config.json: vocab_size is 'many'"),
    ("keyless", "keyless/config.json: lacks hidden_size"),
    ("misfit", "the tokenizer has 73 tokens", "do not belong together"),
    ("run --sequence_length 1024", "--sequence_length 1024 is above the 512 positions of run"),
    ("run --model.num_layers 2", "--model.num_layers cannot change a checkpoint"),
    ("run --model.dropout 1", "--model.dropout is 1.0"),
    ("run --size mini", "--size has no effect with --init: leave one of the two out"),
    ("run --vocabulary_size 64", "--vocabulary_size has no effect with --init"),
    ("run --lowercase false", "--lowercase has no effect with --init"),
    ("run --strip_accents false", "--strip_accents has no effect with --init"),
]


@pytest.mark.parametrize("recipe_name", ["pretrain_bert", "finetune_bert"])
@pytest.mark.parametrize(("argv", "parts"), [(case[0], case[1:]) for case in CHECKPOINTS])
def test_checkpoints(refused, recipe_name, argv, parts):
    usual = GO_ON if recipe_name == "pretrain_bert" else TUNE_ON
    line = refused(recipe_name, *usual, "--init", *argv.split())
    assert all(part in line for part in parts), line


TABLES = [
    ("--train trian.tsv", "trian.tsv: no such file; did you mean train.tsv?"),
    ("--train empty.txt", "empty.txt: the file is empty"),
    ("--train header_only.tsv", "holds no rows below its header"),
    ("--train binary.tsv", "binary.tsv: holds NUL bytes"),
    ("--train few.tsv", "few.tsv:7: has 1 field"),
    ("--train one_class.tsv", "all 8 rows have the label 'negative'"),
    ("--train nan.tsv", "nan.tsv:14: label 'nan' is not a finite number"),
    ("--train nan.tsv --task regression", "nan.tsv:14: label 'nan'"),
    ("--train numbers.tsv --task classification", "task regression"),
    ("--train empty_text.tsv", "empty_text.tsv:4: the text is empty"),
    ("--train train.tsv --text_columns sentense", "no column 'sentense'", "did you mean 'sentence'?"),
    ("--train train.tsv --text_columns label", "both label_column and one of text_columns"),
    ("--train train.tsv --text_columns a,b,c", "names 3 columns"),
    ("--train train.tsv --text_columns sentence,sentence", "twice"),
    ("--train no_header.tsv --text_columns 0 --label_column 7", "no_header.tsv:1: has 2 fields, column 7"),
    ("--train train.tsv --text_columns 0 --label_column 1", "train.tsv:1:", "looks like a header"),
    (
        "--train train.tsv --validation unseen.tsv",
        "unseen.tsv:7: label 'postive'",
        "did you mean 'positive'?",
    ),
    ("--train train.tsv --test nowhere.tsv", "nowhere.tsv: no such file"),
    ("--train train.tsv --sequence_length 129 --model.max_sequence_length 128", "129 is above"),
    ("--train train.tsv --patience 2", "--patience needs --validation"),
    ("--train train.tsv --monitor f1", "--monitor f1 needs --validation"),
    ("--train train.tsv --epochs 0", "--epochs is 0"),
    ("--train train.tsv --model.dropout 1", "--model.dropout is 1.0"),
    ("--train train.tsv --text_column 0", "did you mean --text_columns?"),
    ("--train train.tsv --output tuned", "holds a finished run"),
]


@pytest.mark.parametrize(("argv", "parts"), [(case[0], case[1:]) for case in TABLES])
def test_tables(refused, argv, parts):
    line = refused("finetune_bert", *FINETUNE, *argv.split())
    assert all(part in line for part in parts), line


PREDICTIONS = [
    (["run"], "give either --text or --file"),
    (["run", "--text", "a", "--file", "good.txt"], "give either --text or --file"),
    (["nowhere/at/all", "--text", "a"], "no such directory"),
    (["no_tokenizer", "--text", "a"], "neither tokenizer.json"),
    (["misfit", "--text", "a [MASK]"], "do not belong together"),
    (
        ["nameless", "--text", "a [MASK]"],
        "nameless/config.json: architectures is 5, it must be a list of names",
    ),
    (["numbered", "--text", "a cat"], "id2label is 5, it must be an object of ids"),
    (
        ["headless", "--text", "a cat"],
        "the weights hold no classifier: fine-tune or pretrain the model first",
    ),
    (["run", "--text", "a cat"], "'a cat' holds no [MASK]", "put [MASK]"),
    (["tuned", "--text", " "], "a text is empty"),
    (["tuned", "--text", "a\tb\tc"], "more than one tab"),
    (["tuned", "--text", "a", "--text_columns", "0"], "--text_columns is for --file"),
    (["tuned", "--text", "a", "--sequence_length", "9999"], "--sequence_length 9999 is above"),
    (["tuned", "--text", "a", "--output", "nowhere/b"], "no directory nowhere"),
    (["tuned", "--text", "a", "--output", "other"], "other is a directory"),
    (["tuned", "--text", "a", "--output", "/proc/b"], "/proc/b: cannot be written", "give another path"),
    (["tuned", "--text", "a", "--output", os.devnull], "is not an ordinary file"),
    (["tuned", "--text", "a", "--top_k", "0"], "--top_k is 0"),
    (["tuned", "--file", "nowhere.txt"], "nowhere.txt: no such file"),
    (["tuned", "--file", "binary.txt"], "binary.txt: holds NUL bytes"),
]


@pytest.mark.parametrize(("argv", "parts"), [(case[0], case[1:]) for case in PREDICTIONS])
def test_predictions(refused, argv, parts):
    line = refused("predict", "--model", *argv)
    assert all(part in line for part in parts), line


@pytest.fixture
def untrained(monkeypatch):
    """Recipes stop where training would begin, which compiling would make slow."""

    def stop(*arguments, **settings):
        raise InputError("here training begins")

    monkeypatch.setattr(job, "fit_run", stop)


@pytest.mark.parametrize("table", ["bom", "crlf", "quotes", "long"])
def test_harmless_tables(inside, untrained, run_recipe, capfd, table):
    assert run_recipe("finetune_bert", *FINETUNE, "--train", f"{table}.tsv") == 2
    shown = capfd.readouterr()
    assert shown.err == "error: here training begins\n"
    assert ("16 of them cut to 16 tokens" in shown.out) == (table == "long")


def test_one_document_is_enough_for_masked_lm(inside, untrained, run_recipe, capfd):
    argv = ["--corpus", "one_document.txt", *PRETRAIN, "--objectives", "masked_lm"]
    assert run_recipe("pretrain_bert", *argv) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["too few documents to set some aside: no validation", "error: here training begins"]


@pytest.mark.filterwarnings("default")
def test_new_heads_are_noted_in_one_line(inside, untrained, run_recipe, capfd):
    assert run_recipe("finetune_bert", *TUNE_ON, "--init", "run") == 2
    note, end = capfd.readouterr().err.splitlines()
    assert note.startswith("note: run/model: new, with initial values: classifier")
    assert end == "error: here training begins"


@pytest.fixture
def full_disk(monkeypatch):
    """A function that makes the disk full from the first sync of a file of some name on."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("there is no /proc/self/fd to tell by which file is synced")

    def fill(name: str) -> None:
        full = []

        def fsync(descriptor: int) -> None:
            if full or name in Path(os.readlink(f"/proc/self/fd/{descriptor}")).name:
                full.append(descriptor)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def test_full_disk_at_the_start(refused, full_disk):
    full_disk("config.yaml")
    assert "free some space" in refused("pretrain_bert", *GOOD, *PRETRAIN)


def test_full_cache(refused, full_disk, inside, monkeypatch):
    monkeypatch.setenv("KERASLLM_CACHE", str(inside / "cache" / "another"))
    full_disk("tokens")
    line = refused("pretrain_bert", *GOOD, *PRETRAIN)
    assert "the token cache cannot be written: No space left" in line
    assert "KERASLLM_CACHE" in line


def test_full_disk_while_logging(inside, run_recipe, capfd, monkeypatch):
    """Training goes on; full to the end, it leaves nothing to go on from: nothing stays."""

    def write(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("kerasllm.training.callbacks.tensorboard.EventWriter.add", write)
        assert run_recipe("pretrain_bert", *GOOD, *PRETRAIN, *UNVALIDATED) == 0
    assert len((inside / "out" / "metrics.jsonl").read_text().splitlines()) == 2
    assert capfd.readouterr().err.count("the disk is full; training goes on") == 1
    shutil.rmtree(inside / "out")
    monkeypatch.setattr("kerasllm.training.callbacks.metrics_log.MetricsLog._write", write)
    assert run_recipe("pretrain_bert", *GOOD, *PRETRAIN, *UNVALIDATED) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: out: the disk is full; free some space")
    assert not (inside / "out").exists()


def test_full_disk_before_any_checkpoint(inside, run_recipe, capfd, full_disk):
    full_disk("state.safetensors")
    assert run_recipe("pretrain_bert", *GOOD, *PRETRAIN, *UNVALIDATED) == 2
    lines = capfd.readouterr().err.splitlines()
    assert "checkpoint of step 2 not saved (No space left on device); training goes on" in lines
    assert lines[-1].startswith("error: out/model/")
    assert not (inside / "out").exists()


def test_full_disk_after_a_checkpoint(inside, run_recipe, capfd, full_disk, monkeypatch):
    """The run stays, and goes on when there is space."""
    full_disk("model.safetensors")
    assert run_recipe("pretrain_bert", *GOOD, *PRETRAIN, *UNVALIDATED) == 2
    assert "out/model/model.safetensors: cannot be written" in capfd.readouterr().err.splitlines()[-1]
    assert not list(inside.glob("out/model/*"))
    monkeypatch.undo()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("KERASLLM_CACHE", str(inside / "cache"))
    assert run_recipe("pretrain_bert", *GOOD, *PRETRAIN, *UNVALIDATED, "--resume") == 0
    assert (inside / "out" / "results.json").exists()
    shutil.rmtree(inside / "out")


def test_backend_that_is_not_there():
    """A recipe says it in one line although it fails in an import; in Python it is an ImportError."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"KERAS_BACKEND": "pytorch", "PYTHONPATH": str(root)}
    parts = ["KERAS_BACKEND is pytorch", "set KERAS_BACKEND="]
    for recipe in ("finetune_bert", "pretrain_bert"):
        command = [sys.executable, str(root / "recipes" / f"{recipe}.py"), "--help"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
        assert ended.stderr.startswith("error: ")
        assert all(part in ended.stderr for part in parts), ended.stderr
    code = "try:\n import kerasllm\nexcept ImportError as error:\n print(error)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert parts[0] in ended.stdout
