"""GPT's recipes end to end, on the animals of conftest.py."""

import io
import json
import shlex
import shutil
import signal

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from kerasllm.training.callbacks.metrics_log import MetricsLog

MODEL = [
    *("--model.num_layers", "1", "--model.num_heads", "2", "--model.hidden_dim", "32"),
    *("--context_length", "48", "--batch_size", "8", "--processes", "1", "--learning_rate", "1e-2"),
]


def training_options(corpus, output):
    return [
        *(
            "--corpus",
            corpus,
            "--output",
            output,
            "--tokenizer",
            "characters",
            "--steps",
            "40",
            "--warmup",
            "4",
        ),
        *("--eval_interval", "20", "--model.dropout", "0.1", "--seed", "3", "--sample_tokens", "16"),
        *MODEL,
    ]


@pytest.fixture(scope="module")
def trained(corpus, run_recipe, without_compiling, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt") / "run"
    with without_compiling(eagerly=False):
        assert run_recipe("pretrain_gpt", *training_options(corpus, path)) == 0
    return path


def test_a_run_holds_all_it_should(trained, read_run, corpus):
    lines, results = read_run(trained)
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[19]["validation_loss"] > lines[39]["validation_loss"] == results["validation"]["loss"]
    assert results["validation"]["perplexity"] == pytest.approx(np.exp(results["validation"]["loss"]))
    text = corpus.read_text()
    assert results["validation"]["tokens"] == pytest.approx(0.1 * len(text), abs=48)
    samples = [json.loads(line) for line in (trained / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [20, 40]
    assert all(len(sample["text"]) > 1 for sample in samples)
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    assert settings["resolved"]["model"]["vocabulary_size"] == len(set(text)) + 1
    assert (trained / "curves.png").stat().st_size > 1000
    tensors = load_file(trained / "model" / "model.safetensors")
    assert tensors["transformer.wpe.weight"].shape == (48, 32)


@pytest.mark.usefixtures("without_xla")
def test_interrupted_and_resumed_it_ends_the_same(
    trained, corpus, run_recipe, read_run, tmp_path, monkeypatch
):
    plain = MetricsLog.on_step_end

    def interrupt(self, step, values):
        plain(self, step, values)
        if step == 26:
            signal.raise_signal(signal.SIGTERM)

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_step_end", interrupt)
        assert run_recipe("pretrain_gpt", *training_options(corpus, path)) == 143
    assert run_recipe("pretrain_gpt", "--output", path, "--resume") == 0  # its settings are in config.yaml
    assert read_run(path)[0] == read_run(trained)[0]
    assert (path / "samples.jsonl").read_text() == (trained / "samples.jsonl").read_text()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (path / "model" / name).read_bytes() == (trained / "model" / name).read_bytes()


@pytest.mark.usefixtures("uncompiled")
def test_one_seed_gives_the_same_bytes_twice(corpus, run_recipe, read_run, tmp_path, capsys):
    """And another seed others; with dropout, and without anything else being set or kept from the first run."""
    few = ["--tokenizer", "characters", "--steps", "2", "--validation_fraction", "0", "--sample_tokens", "4"]
    options = ["--corpus", corpus, *few, "--model.dropout", "0.1", *MODEL]
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        assert run_recipe("pretrain_gpt", *options, "--seed", seed, "--output", tmp_path / name) == 0
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for name in ("model/model.safetensors", "model/tokenizer.json", "samples.jsonl"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert read_run(first)[0] == read_run(again)[0]
    weights = "model/model.safetensors"
    assert (first / weights).read_bytes() != (other / weights).read_bytes()
    assert read_run(first)[0][0]["loss"] != read_run(other)[0][0]["loss"]
    *_, where, use = capsys.readouterr().out.splitlines()
    assert where.startswith(f"written to {other} (")
    words = shlex.split(use[use.index("--model") :])
    assert run_recipe("generate", *words, "--max_new_tokens", "2") == 0
    assert capsys.readouterr().out.startswith(words[-1])
    assert run_recipe("predict", "--model", other, "--text", "a cat") == 0
    assert capsys.readouterr().out.startswith("a cat")


@pytest.mark.usefixtures("without_xla")
def test_going_on_from_a_run(trained, corpus, run_recipe, read_run, tmp_path):
    """What came with the model goes with it: its chat template, and the settings of generation."""
    model = tmp_path / "model"
    shutil.copytree(trained / "model", model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1], "temperature": 0.5}))
    options = [
        "--corpus",
        corpus,
        "--init",
        model,
        "--context_length",
        "32",
        "--batch_size",
        "4",
        "--steps",
        "2",
    ]
    path = tmp_path / "more"
    within = ["--within_documents", "true", "--sample_tokens", "0", "--eval_batches", "2"]
    assert run_recipe("pretrain_gpt", *options, *within, "--output", path) == 0
    assert read_run(path)[0][0]["loss"] < read_run(trained)[0][10]["loss"]
    assert (
        json.loads((path / "model" / "tokenizer_config.json").read_text())["chat_template"]
        == "{{ messages }}"
    )
    generation = json.loads((path / "model" / "generation_config.json").read_text())
    assert generation.items() >= {"eos_token_id": [0, 1], "temperature": 0.5}.items()


def samples(path):
    return [json.loads(line)["text"] for line in (path / "samples.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("uncompiled")
def test_samples_begin_with_what_the_tokenizer_has(trained, corpus, run_recipe, tmp_path):
    """A line break where it is a character that is known, of a run gone on from too, else the end mark."""
    few = ["--steps", "2", "--validation_fraction", "0", "--sample_tokens", "4"]
    rest = ["--context_length", "48", "--batch_size", "8", "--output", tmp_path / "more"]
    assert run_recipe("pretrain_gpt", "--corpus", corpus, "--init", trained, *few, *rest) == 0
    assert all(text.startswith("\n") for text in samples(tmp_path / "more"))
    (tmp_path / "line.txt").write_text("no line break anywhere " * 20)
    options = ["--corpus", tmp_path / "line.txt", "--tokenizer", "characters", *few, *MODEL]
    assert run_recipe("pretrain_gpt", *options, "--output", tmp_path / "line") == 0
    assert samples(tmp_path / "line")


def test_byte_level_bpe_and_llama(corpus, run_recipe, read_run, tmp_path):
    llama = [
        *(
            "--model.normalization",
            "rms_norm",
            "--model.positions",
            "rotary",
            "--model.feed_forward",
            "gated",
        ),
        *("--model.activation", "silu", "--model.use_bias", "false", "--model.num_key_value_heads", "1"),
    ]
    options = ["--corpus", corpus, "--vocabulary_size", "300", "--steps", "4", "--gradient_accumulation", "2"]
    rest = ["--validation_fraction", "0", "--sample_tokens", "0", "--output", tmp_path / "run"]
    assert run_recipe("pretrain_gpt", *options, *MODEL, *llama, *rest) == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["model_type"] == "llama" and config["vocab_size"] == 300
    assert read_run(tmp_path / "run")[1]["validation"] is None


def test_generating_from_the_command_line(trained, run_recipe, tmp_path, capsys, monkeypatch):
    common = ["--model", trained, "--max_new_tokens", "12"]
    assert run_recipe("generate", *common, "--prompt", "The old") == 0
    streamed = capsys.readouterr().out
    assert streamed.startswith("The old") and len(streamed) > 8
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The old\n\nThe grey fox\n")
    output = tmp_path / "out.jsonl"
    assert run_recipe("generate", *common, "--file", prompts, "--output", output) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["The old", "The grey fox"]
    assert lines[0]["text"] == streamed.rstrip("\n")
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("The fox runs\n\n"))
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    (tmp_path / "chat").mkdir()
    for file in (trained / "model").iterdir():
        (tmp_path / "chat" / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "chat" / "tokenizer_config.json").read_text())
    (tmp_path / "chat" / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": template})
    )
    assert run_recipe("generate", "--model", tmp_path / "chat", "--max_new_tokens", "8", "--chat") == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--context_length", "100000"], "context_length 100000"),
        (["--minimum_learning_rate", "1"], "--minimum_learning_rate is 1.0"),
        (["--tokenizer", "byte_level_bpe", "--vocabulary_size", "100"], "vocabulary_size"),
        (["--model.num_heads", "3"], "--model.hidden_dim 32 does not divide"),
        (["--model.num_key_value_heads", "3"], "--model.num_key_value_heads 3"),
        (["--size", "gpt9"], "gpt2"),
        (["--validation_fraction", "1"], "--validation_fraction is 1"),
        (["--tokenizer", "nowhere.json"], "nowhere.json"),
        (["--sample_prompt", "The €"], "--sample_prompt: the tokenizer does not know the character '€'"),
        (
            ["--sample_prompt", "a" * 48],
            "--sample_prompt takes 48 of 48 positions, which leaves none for --sample_tokens 16",
        ),
        (["--init", "/nowhere"], "leave it out, --init brings its own"),
        (["--init", "/nowhere", "--tokenizer", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_settings(options, fault, corpus, run_recipe, tmp_path, capsys):
    path = tmp_path / "run"
    assert run_recipe("pretrain_gpt", *training_options(corpus, path), *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and fault in message, message
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            ["--validation_split", "document"],
            "single document, which cannot be split by documents; set --validation_split",
        ),
        (["--validation_fraction", "0"], "--context_length 48 is longer than the corpus of 22 tokens"),
        (["--validation_corpus", "{}"], "--context_length 48 is longer than the corpus of 22 tokens"),
    ],
)
def test_a_corpus_that_is_too_short_is_named(options, fault, run_recipe, tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("A very short document")
    options = [option.format(short) for option in options]
    path = tmp_path / "run"
    assert run_recipe("pretrain_gpt", *training_options(short, path), *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"error: --corpus {short}: ") and fault in message, message
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ([], "one of --prompt, --file and --chat"),
        (["--prompt", "The €"], "€"),
        (["--prompt", "a", "--top_p", "2"], "--top_p is 2.0"),
        (["--prompt", "The " * 20], "48 positions"),
        (["--file", "/nowhere.txt"], "/nowhere.txt"),
        (["--prompt", "a", "--output", "x"], "--output is for --file"),
    ],
)
def test_bad_prompts(options, fault, trained, run_recipe, capsys):
    assert run_recipe("generate", "--model", trained, "--max_new_tokens", "4", *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and fault in message, message
