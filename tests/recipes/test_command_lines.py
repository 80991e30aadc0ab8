"""Every recipe's help and settings, and the settings that are shipped."""

import shlex
from pathlib import Path

import pytest
import yaml

from kerasllm import cli
from kerasllm.cli import settings

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "recipes" / "configs").glob("*.yaml"))
RECIPES = [
    "pretrain_bert",
    "finetune_bert",
    "finetune_tagging",
    "finetune_qa",
    "answer",
    "predict",
    "pretrain_gpt",
    "finetune_gpt",
    "pretrain_recurrent",
    "finetune_recurrent",
    "generate",
    "evaluate",
    "finetune_embeddings",
    "embed",
    "train_translation",
    "translate",
    "scaling",
    "quickstart",
    "benchmark",
]
REQUIRED = {
    "pretrain_bert": ["--output", "runs/x", "--corpus", "a.txt", "b.txt"],
    "finetune_bert": ["--output", "runs/x", "--train", "a.tsv"],
    "finetune_tagging": ["--output", "runs/x", "--train", "a.conll"],
    "finetune_qa": ["--output", "runs/x", "--train", "a.json"],
    "answer": ["--model", "runs/x", "--context", "a.txt"],
    "predict": ["--model", "runs/x"],
    "pretrain_gpt": ["--output", "runs/x", "--corpus", "a.txt"],
    "finetune_gpt": ["--output", "runs/y", "--init", "runs/x", "--train", "a.jsonl"],
    "pretrain_recurrent": ["--output", "runs/x", "--corpus", "a.txt"],
    "finetune_recurrent": ["--output", "runs/x", "--train", "a.tsv"],
    "generate": ["--model", "runs/x"],
    "evaluate": ["--model", "runs/x", "--corpus", "a.txt"],
    "finetune_embeddings": ["--output", "runs/x", "--train", "a.tsv"],
    "embed": ["--model", "runs/x"],
    "train_translation": ["--output", "runs/x", "--train", "a.en", "a.de"],
    "translate": ["--model", "runs/x"],
    "scaling": ["--size", "bert_large", "--mesh.replica", "8"],
    "quickstart": [],
    "benchmark": ["--output", "runs/x"],
}


@pytest.mark.parametrize("name", RECIPES)
def test_help_explains_every_option(name, recipe, run_recipe, capsys):
    assert run_recipe(name, "--help") == 0
    shown = capsys.readouterr().out
    words = set(shown.split())
    for option in settings.options(recipe(name).Config):
        assert f"--{option.name}" in words
        assert option.documentation, f"--{option.name} is not explained"
    assert {"--config", "--print_config", "--help"} <= words


@pytest.mark.parametrize("name", RECIPES)
def test_help_ends_with_a_command_that_can_be_typed(name, recipe, run_recipe, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"kerasllm {name}"])
    monkeypatch.setenv("COLUMNS", "80")
    run_recipe(name, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = shlex.split("\n".join(lines[lines.index("example:") + 1 :]).replace("\\\n", ""))
    assert words[0].startswith("KERAS_BACKEND=") and words[1:3] == ["kerasllm", name]
    cli.parse(recipe(name).Config, words[3:])


@pytest.mark.parametrize("name", ["pretrain_bert", "pretrain_gpt", "finetune_bert", "finetune_gpt"])
def test_help_has_the_settings_of_training_in_groups(name, run_recipe, capsys):
    run_recipe(name, "--help")
    headings = [
        line for line in capsys.readouterr().out.splitlines() if line.endswith(":") and line[0] != " "
    ]
    groups = [f"{group}:" for group in settings.GROUPS]
    assert headings == [*groups, "settings and help:", "example:"]


@pytest.mark.parametrize("name", RECIPES)
def test_print_config_gives_the_same_settings_again(name, recipe, run_recipe, capsys, tmp_path):
    assert run_recipe(name, *REQUIRED[name], "--print_config") == 0
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    config = recipe(name).Config
    assert cli.parse(config, ["--config", str(file)]) == cli.parse(config, REQUIRED[name])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_settings_parse(path, recipe):
    """Named after their recipe; the data and the output stay the user's to say."""
    (name,) = [name for name in RECIPES if path.stem.startswith(name + "_")]
    config = cli.parse(recipe(name).Config, ["--config", str(path), *REQUIRED[name]])
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert not {"output", "corpus", "train", "validation", "test", "init"} & set(given)
    assert given.get("tokenizer", "characters") == "characters"  # no file of ours either
    for key, value in given.items():
        if isinstance(value, dict):
            assert {name: getattr(getattr(config, key), name) for name in value} == value
        else:
            assert getattr(config, key) == value


def test_settings_are_shipped():
    assert {path.stem for path in CONFIGS} >= {
        *("pretrain_bert_novels", "finetune_bert_mrpc", "finetune_bert_sst2"),
        *("pretrain_gpt_shakespeare_cpu", "pretrain_gpt_shakespeare_gpu"),
        *("finetune_tagging_wnut17", "finetune_qa_xquad", "train_translation_multi30k"),
        *("train_translation_multi30k_lstm", "finetune_embeddings_titles"),
        "pretrain_recurrent_shakespeare",
    }
