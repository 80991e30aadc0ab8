"""Fine-tuning a GPT on conversations and on text, and judging it."""

import json
import math
import shutil

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file

from kerasllm import GPTCausalLM
from kerasllm.errors import InputError

ANIMALS = ["cat", "dog", "fox", "owl"]


@pytest.fixture(scope="module")
def base(corpus, run_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "run"
    shape = [
        "--model.num_layers",
        "1",
        "--model.num_heads",
        "2",
        "--model.hidden_dim",
        "32",
        "--model.dropout",
        "0",
    ]
    options = ["--vocabulary_size", "300", "--context_length", "48", "--batch_size", "8", "--steps", "30"]
    rest = [
        "--learning_rate",
        "1e-2",
        "--processes",
        "1",
        "--sample_tokens",
        "0",
        "--validation_fraction",
        "0",
    ]
    assert run_recipe("pretrain_gpt", "--corpus", corpus, "--output", path, *shape, *options, *rest) == 0
    return path


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    lines = []
    for number in range(24):
        animal = ANIMALS[number % 4]
        messages = [
            {"role": "user", "content": f"The {animal}?"},
            {"role": "assistant", "content": f"It is old {number % 4}."},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


TUNING = ["--epochs", "12", "--batch_size", "2", "--learning_rate", "2e-2", "--seed", "1"]


def test_dialogue_with_adapters(base, talks, run_recipe, read_run, tmp_path, capsys):
    path = tmp_path / "run"
    options = ["--init", base, "--train", talks, "--validation", talks, "--lora_rank", "4", *TUNING]
    assert run_recipe("finetune_gpt", *options, "--output", path) == 0
    shown = capsys.readouterr().out
    assert "24 conversations in" in shown and "parameters are trained" in shown and "MiB" in shown
    lines, results = read_run(path)
    assert results["validation"]["loss"] < 2 / 3 * lines[0]["loss"]  # four numbers a weight move it so far
    assert 0 < results["trainable_parameters"] < 0.3 * results["parameters"]
    tensors, before = (load_file(run / "model" / "model.safetensors") for run in (path, base))
    assert tensors.keys() == before.keys()  # the adapters are merged
    moved = {name for name in tensors if np.abs(tensors[name] - before[name]).max() > 0}
    assert moved and all(name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) for name in moved)
    settings = json.loads((path / "model" / "tokenizer_config.json").read_text())
    assert "eos_token" in settings["chat_template"]
    assert (
        run_recipe(
            "generate", "--model", path, "--prompt", "User: The fox?\nAssistant:", "--max_new_tokens", "9"
        )
        == 0
    )
    assert capsys.readouterr().out.startswith("User: The fox?\nAssistant:")


@pytest.mark.parametrize("kind", ["talks", "text"])
def test_parts_are_set_aside_from_one_file(
    base, talks, corpus, run_recipe, tmp_path, capsys, monkeypatch, kind
):
    """Training stops where it would begin, as only the data is of interest."""
    jobs = []

    def stop(config, job, model, run):
        jobs.append(job)
        raise InputError("here training begins")

    monkeypatch.setattr("kerasllm.training.job._fit", stop)
    train = talks if kind == "talks" else corpus
    argv = ["--init", base, "--train", train, "--validation_fraction", "0.2", "--test_fraction", "0.15"]
    assert run_recipe("finetune_gpt", *argv, *TUNING, "--processes", "1", "--output", tmp_path / "run") == 2
    shown = capsys.readouterr()
    assert shown.err.endswith("here training begins\n")
    assert list(jobs[0].held_out) == ["validation", "test"]
    if kind == "talks":  # 24 conversations, of which four differ
        assert "set aside for validation: 6 examples of 24, 25 % of --train" in shown.out
        assert "12 conversations in" in shown.out
    else:
        assert "set aside for validation: " in shown.out and "20 % of --train" in shown.out
    sizes = {name: sum(int(batch[2].sum()) for batch in part) for name, part in jobs[0].held_out.items()}
    assert sizes["validation"] > sizes["test"] > 0 if kind == "text" else sizes["validation"] == sizes["test"]


@pytest.mark.usefixtures("without_xla")
def test_interrupted_it_resumes(base, talks, run_recipe, read_run, tmp_path):
    options = ["--init", base, "--train", talks, *TUNING, "--checkpoint_steps", "4", "--context_length", "32"]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run_recipe("finetune_gpt", *options, "--output", whole) == 0
    assert run_recipe("finetune_gpt", *options, "--output", parted) == 0
    (parted / "results.json").unlink()
    steps = sorted((parted / "checkpoints").iterdir())
    for later in steps[1:]:
        for file in later.iterdir():
            file.write_bytes(b"")
    assert run_recipe("finetune_gpt", *options, "--output", parted, "--resume") == 0
    assert read_run(parted)[0] == read_run(whole)[0]
    one, other = (run / "model" / "model.safetensors" for run in (whole, parted))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.usefixtures("without_xla")
def test_plain_text_and_its_perplexity(base, corpus, run_recipe, read_run, tmp_path, capsys):
    path, init = tmp_path / "run", tmp_path / "base"
    shutil.copytree(base / "model", init)
    (init / "chat_template.jinja").write_text("{{ messages }}")
    options = [
        "--init",
        init,
        "--train",
        corpus,
        "--validation",
        corpus,
        "--epochs",
        "1",
        "--batch_size",
        "8",
    ]
    assert run_recipe("finetune_gpt", *options, "--learning_rate", "1e-2", "--output", path) == 0
    settings = json.loads((path / "model" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"
    figures = {}
    for name, run in (("before", base), ("after", path)):
        output = tmp_path / f"{name}.json"
        assert (
            run_recipe("evaluate", "--model", run, "--corpus", corpus, "--output", output, "--stride", "24")
            == 0
        )
        figures[name] = json.loads(output.read_text())
    assert figures["after"]["loss"] < figures["before"]["loss"]
    found = figures["after"]
    text = corpus.read_text()
    assert found["bytes"] == found["characters"] == len(text)
    nats = found["loss"] * found["tokens"]
    assert found["bits_per_byte"] == pytest.approx(nats / len(text) / math.log(2))
    assert found["perplexity_per_byte"] == pytest.approx(math.exp(nats / len(text)))
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize("beginning", [None, "!"])
def test_a_short_text_is_judged_as_one_window(base, run_recipe, tmp_path, beginning):
    """Against the model's own scores of the text after the token that the tokenizer puts there, or an end mark."""
    from kerasllm.tokenizers.added_tokens import mark_processor
    from kerasllm.tokenizers.loading import load_tokenizer

    if beginning:
        shutil.copytree(base / "model", tmp_path / "model")
        base, tokenizer = tmp_path / "model", load_tokenizer(base)
        tokenizer.post_processor = mark_processor((beginning, tokenizer.token_to_id(beginning)), None)
        tokenizer.save(str(base / "tokenizer.json"))
    text = "The old cat waits near the river."
    (tmp_path / "short.txt").write_text(text)
    output = tmp_path / "figures.json"
    assert (
        run_recipe("evaluate", "--model", base, "--corpus", tmp_path / "short.txt", "--output", output) == 0
    )
    model, tokenizer = GPTCausalLM.from_pretrained(base), load_tokenizer(base)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    inputs = np.array([[tokenizer.token_to_id(beginning or "<|endoftext|>"), *ids[:-1]]])
    logits = ops.convert_to_numpy(model({"token_ids": inputs}))[0].astype("float64")
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids)), ids]
    found = json.loads(output.read_text())
    assert found["tokens"] == len(ids)
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("finetune_gpt", ["--train", "/nowhere.jsonl"], "/nowhere.jsonl"),
        ("finetune_gpt", ["--context_length", "400"], "--context_length 400 is above the 48 positions"),
        ("finetune_gpt", ["--lora_rank", "-1"], "--lora_rank is -1"),
        (
            "finetune_gpt",
            ["--lora_rank", "2", "--lora_alpha", "0"],
            "--lora_alpha is 0.0, it must be above 0",
        ),
        ("finetune_gpt", ["--lora_alpha", "4"], "--lora_alpha 4.0 means nothing without --lora_rank"),
        ("finetune_gpt", ["--dropout", "1.5"], "--dropout is 1.5"),
        ("evaluate", ["--limit", "0"], "--limit is 0, it must be at least 1"),
        ("evaluate", ["--limit", "-1"], "--limit is -1, it must be at least 1"),
        ("finetune_gpt", ["--patience", "2"], "--patience needs --validation"),
        ("finetune_gpt", ["--chat_template", "/nowhere"], "--chat_template /nowhere"),
        ("evaluate", ["--stride", "49"], "--stride 49 is above the window of 48"),
        ("evaluate", ["--corpus", "/nowhere.txt"], "/nowhere.txt"),
    ],
)
def test_bad_settings(name, options, fault, base, talks, run_recipe, tmp_path, capsys):
    usual = {
        "finetune_gpt": ["--init", base, "--train", talks, "--output", tmp_path / "run"],
        "evaluate": ["--model", base, "--corpus", talks],
    }
    assert run_recipe(name, *usual[name], *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and fault in message, message
    assert not (tmp_path / "run").exists()
