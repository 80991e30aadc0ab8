"""The recipe on finished runs, and what it refuses in one line."""

import importlib.util
import json
import shutil

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*new, with initial values")


@pytest.fixture(scope="module")
def classifier(pretrained, make_rows, run_recipe, tmp_path_factory, without_compiling):
    """A run with adapters and validation data of its own."""
    folder = tmp_path_factory.mktemp("labelled")
    for name, count, seed in (("train", 32, 1), ("dev", 16, 2)):
        lines = [f"{text}\t{label}" for text, _, label, _ in make_rows(count, seed)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    argv = ["--init", pretrained, "--train", folder / "train.tsv", "--validation", folder / "dev.tsv"]
    argv += ["--text_columns", "0", "--label_column", "1", "--sequence_length", "32", "--batch_size", "8"]
    argv += ["--epochs", "1", "--lora_rank", "2", "--learning_rate", "1e-2", "--output", folder / "run"]
    with without_compiling(eagerly=False):
        assert run_recipe("finetune_bert", *argv) == 0
    return folder / "run"


def test_onnx_with_the_accuracy_before_and_after(classifier, run_recipe, tmp_path, capsys, read_run):
    capsys.readouterr()
    argv = ["--model", classifier, "--format", "onnx", "--precision", "int8", "--output", tmp_path / "onnx"]
    assert run_recipe("export", *argv) == 0
    shown = capsys.readouterr().out
    assert "onnx/model_quantized.onnx" in shown and "greatest difference from the model on 20 texts" in shown
    report = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert report["comparison"]["greatest_difference"] < 1e-4
    _, results = read_run(classifier)
    before = report["int8"]["before"]
    assert before["accuracy"] == results["validation"]["accuracy"] and before["examples"] == 16
    assert before["loss"] == pytest.approx(results["validation"]["loss"], abs=1e-5)
    assert abs(report["int8"]["after"]["loss"] - before["loss"]) < 0.2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_adapters(classifier, run_recipe, tmp_path):
    argv = ["--model", classifier, "--format", "peft", "--output", tmp_path / "adapter"]
    assert run_recipe("export", *argv) == 0
    report = json.loads((tmp_path / "adapter" / "export.json").read_text())
    assert report["comparison"]["greatest_difference"] < 1e-4
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(report["files"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--format", "gguf"), "a BertPretraining cannot be written to GGUF"),
        (("--format", "peft"), "adapters are those of a run with --lora_rank"),
        (("--format", "onnx", "--precision", "float16"), "--precision float16 is none of --format onnx"),
        (("--format", "tf_saved_model", "--precision", "int8"), "--precision int8 is none of --format"),
        (("--format", "onnx", "--output", "{pretrained}"), "is not empty; give a new directory"),
        (("--format", "onnx", "--output", "{pretrained}/config.yaml"), "config.yaml is a file"),
        (("--format", "pickle"), "--format: 'pickle' is not one of onnx"),
        (("--format", "onnx", "--model", "{tmp}"), "it is no model and no finished run"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    argv, message, pretrained, run_recipe, tmp_path, capsys
):
    capsys.readouterr()
    named = [part.format(pretrained=pretrained, tmp=tmp_path) for part in argv]
    for option, value in (("--model", pretrained), ("--output", tmp_path / "new")):
        named += [] if option in named else [option, value]
    assert run_recipe("export", *named) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and error[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_and_a_missing_package(pretrained, run_recipe, tmp_path, capsys, monkeypatch):
    shutil.copytree(pretrained, tmp_path / "cut")
    (tmp_path / "cut" / "results.json").unlink()
    argv = ["--format", "onnx", "--output", tmp_path / "new"]
    assert run_recipe("export", "--model", tmp_path / "cut", *argv) == 2
    assert "is a run that is not finished" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "onnxruntime" else find(name)
    )
    assert run_recipe("export", "--model", pretrained, *argv) == 2
    assert "needs onnxruntime: pip install 'kerasllm[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["finetune_qa", "pretrain_gpt"])
def test_figures_of_other_runs(recipe, pretrained, corpus, run_recipe, read_run, tmp_path, without_compiling):
    """Before rounding they are those that the run has written."""
    if recipe == "finetune_qa":
        question = {"question": "Where?", "answers": [{"text": "The", "answer_start": 0}]}
        texts = corpus.read_text().splitlines()[:4]
        paragraphs = [
            {"context": text, "qas": [{"id": str(index), **question}]} for index, text in enumerate(texts)
        ]
        file = tmp_path / "train.json"
        file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
        argv = ["--init", pretrained, "--train", file, "--validation", file, "--sequence_length", "32"]
        argv += ["--document_stride", "4", "--batch_size", "4", "--epochs", "1"]
    else:
        argv = ["--corpus", corpus, "--vocabulary_size", "300", "--context_length", "32", "--batch_size", "4"]
        argv += ["--model.num_layers", "1", "--model.num_heads", "2", "--model.hidden_dim", "16"]
        argv += ["--steps", "2", "--warmup", "0", "--sample_tokens", "0", "--processes", "1"]
    run = tmp_path / "run"
    with without_compiling(eagerly=False):
        assert run_recipe(recipe, *argv, "--output", run) == 0
    options = ["--model", run, "--format", "onnx", "--precision", "int8", "--output", tmp_path / "new"]
    assert run_recipe("export", *options) == 0
    found = json.loads((tmp_path / "new" / "export.json").read_text())["int8"]
    expected = read_run(run)[1]["validation"]
    assert found["before"]["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert found["after"]["loss"] == pytest.approx(expected["loss"], abs=0.3)
