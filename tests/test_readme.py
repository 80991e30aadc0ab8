"""Every code block of the READMEs runs: Python as it stands, recipes with a few options that make them small."""

import importlib.util
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from kerasllm import cli

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "recipes" / "benchmark" / "README.md"]
README = "\n".join(path.read_text(encoding="utf-8") for path in READMES)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)

SMALL = {
    "pretrain_bert": "--size tiny --model.hidden_dim 16 --vocabulary_size 60 --sequence_length 16 "
    "--batch_size 4 --steps 3",
    "finetune_bert": "--epochs 1 --sequence_length 16 --batch_size 8",
    "pretrain_gpt": "--model.num_layers 1 --model.num_heads 2 --model.hidden_dim 16 --vocabulary_size 300 "
    "--context_length 32 --batch_size 2 --steps 3 --warmup 0 --sample_tokens 4",
    "finetune_gpt": "--epochs 1 --batch_size 2",
    "generate": "--max_new_tokens 4",
    "evaluate": "--stride 16",
    "finetune_tagging": "--epochs 1 --sequence_length 16 --batch_size 8",
    "finetune_qa": "--epochs 1 --sequence_length 16 --document_stride 2 --batch_size 8",
    "answer": "--sequence_length 16 --document_stride 2",
    "finetune_embeddings": "--epochs 1 --sequence_length 16 --batch_size 2",
    "train_translation": "--model.num_layers 1 --model.hidden_dim 16 --model.intermediate_dim 16 --vocabulary_size 300 "
    "--batch_tokens 256 --steps 2 --warmup 1 --max_length 32",
    "translate": "--num_beams 1",
    "pretrain_recurrent": "--model.hidden_dim 16 --vocabulary_size 60 --context_length 16 --batch_size 2 --steps 3 "
    "--warmup 0",
}
MEASURED = {
    **{"tokens": 8.0, "step_seconds": 0.5, "first_seconds": 1.0, "peak_bytes": 1e9, "versions": {}},
    **{"peak_flops": 1e9, "flops_per_token": 1e6},
}
FROM_SCRATCH = "--size tiny --model.hidden_dim 16 --vocabulary_size 60"


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").strip().splitlines()
    return [shlex.split(part) for line in lines for part in line.split(" && ")]


def recipe(name: str):
    path = ROOT / "recipes" / f"{name}.py"
    if not path.exists():  # a folder, whose parts import one another by their names
        path = ROOT / "recipes" / name / "__main__.py"
        sys.path.insert(0, str(path.parent))
    specification = importlib.util.spec_from_file_location(f"readme_{name}", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where dataclasses look up annotations
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A directory with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERASLLM_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    words = [
        "the",
        "ship",
        "left",
        "harbour",
        "at",
        "dawn",
        "and",
        "a",
        "joy",
        "ran",
        "from",
        "start",
        "to",
        "finish",
        "while",
        "men",
        "sang",
        "of",
        "home",
    ]

    def sentence():
        return " ".join(draw.choice(words, 6)).capitalize() + "."

    documents = ["\n".join(" ".join(sentence() for _ in range(3)) for _ in range(4)) for _ in range(12)]
    (tmp_path / "my_text.txt").write_text("\n\n".join(documents))
    rows = [f"{sentence()}\t{index % 2}" for index in range(24)]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
    (tmp_path / "reviews.txt").write_text(sentence() + "\n" + sentence() + "\n")
    pairs = [f"{index % 2}\t{index}\t{index}\t{sentence()}\t{sentence()}" for index in range(24)]
    for name in ("msr-para-train.tsv", "msr-para-val.tsv"):
        (tmp_path / name).write_text(
            "\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *pairs]) + "\n"
        )
    tagged = "".join(f"{word}\t{'B-ship' if word == 'ship' else 'O'}\n" for word in words)
    (tmp_path / "train.conll").write_text((tagged + "\n") * 4)
    text = " ".join(words)
    question = {
        "id": "1",
        "question": "Who?",
        "answers": [{"text": "ship", "answer_start": text.index("ship")}],
    }
    squad = {"data": [{"title": "t", "paragraphs": [{"context": text, "qas": [question]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    for side in ("en", "de"):
        (tmp_path / f"train.{side}").write_text("".join(sentence() + "\n" for _ in range(8)))
    (tmp_path / "articles").mkdir()
    (tmp_path / "articles" / "one.txt").write_text("\n\n".join(documents[:2]))
    (tmp_path / "tinyshakespeare.txt").write_text("\n\n".join(documents))
    talk = [{"role": "user", "content": "Ahoy"}, {"role": "assistant", "content": "Aye"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("Ahoy\n\n"))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


@pytest.mark.filterwarnings("ignore::kerasllm.errors.InputWarning")
def test_python_blocks_run(workplace):
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert blocks
    names = {}  # a block goes on with what the one before made
    for text in blocks:
        exec(compile(text, "README.md", "exec"), names)  # the test's own exec, of the project's own text
    assert (workplace / "my_bert" / "model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::kerasllm.errors.InputWarning")
@pytest.mark.usefixtures("uncompiled")
def test_recipe_commands_run(workplace, monkeypatch, capsys):
    ran = []
    for language, text in BLOCKS:
        for command in commands(text) if language == "bash" else ():
            settings = [word for word in command if re.fullmatch(r"[A-Z_]+=\S+", word)]
            command = command[len(settings) :]
            if len(command) < 2 or not command[1].startswith("recipes/"):
                continue
            assert command[0] == "python"
            name = Path(command[1]).stem
            module = recipe(name)
            if (
                name == "benchmark"
            ):  # its processes take minutes; tests/recipes/test_benchmark.py runs tiny ones
                monkeypatch.setattr(module, "card", lambda: "a card")
                monkeypatch.setattr(module, "run_case", lambda case, steps: dict(MEASURED))
            arguments = command[2:] + shlex.split(SMALL.get(name, ""))
            if "MINILM" in arguments:  # a checkpoint that is not on every machine: from scratch instead
                at = arguments.index("MINILM")
                arguments = arguments[: at - 1] + arguments[at + 1 :] + shlex.split(FROM_SCRATCH)
            try:
                if hasattr(module, "COMMANDS"):
                    cli.run_command(module.COMMANDS, arguments)
                else:
                    cli.run(module.main, module.Config, arguments)
            except SystemExit as stop:
                pytest.fail(f"{shlex.join(command)}: exit code {stop.code}: {capsys.readouterr().err}")
            ran.append(name)
    gpt = {"pretrain_gpt", "finetune_gpt", "generate", "evaluate"}
    others = {"finetune_tagging", "finetune_qa", "answer", "finetune_embeddings", "embed", "retrieve"}
    others |= {"train_translation", "translate", "pretrain_recurrent", "export"}
    assert set(ran) == {"pretrain_bert", "finetune_bert", "predict", "benchmark"} | gpt | others
    assert len(Path("predictions.jsonl").read_text().splitlines()) == 2


def test_the_two_commands_name_environments_that_exist():
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    known = set(re.findall(r"^\[testenv:([\w-]+)\]", tox, re.MULTILINE))
    named = set(re.findall(r"-e ([\w-]+)", README))
    assert named and named <= known
    listed = re.search(r"^env_list = (.*)$", tox, re.MULTILINE).group(1).split(", ")
    assert set(listed) <= known
    if (run := ROOT / ".ci" / "run").exists():
        assert ".venv/bin/tox run" in run.read_text(encoding="utf-8")


def test_what_backends_leave_out_is_tested_once():
    part = (ROOT / "tox.ini").read_text(encoding="utf-8").split("[backend_free]")[1].partition("[testenv")[0]
    paths, left_out = part.split("paths =")[1].split("ignored = ")
    named = [word.partition("=")[2] for word in left_out.splitlines()[0].split()]
    assert named == paths.split()
    assert all((ROOT / path.partition("::")[0]).exists() for path in named)


def test_every_file_that_the_readme_names_exists():
    for path in set(re.findall(r"(?:recipes|kerasllm)/[\w/]+\.(?:py|yaml)", README)):
        assert (ROOT / path).exists(), path
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
