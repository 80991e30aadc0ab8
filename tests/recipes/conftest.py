"""Recipes run in this process, on text made by rule: a document is about one animal."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kerasllm import cli

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ANIMALS = ["cat", "dog", "fox", "owl", "hen", "bat"]
ADJECTIVES = ["old", "young", "grey", "quick"]
VERBS = ["sleeps", "waits", "runs", "sings"]
PLACES = ["house", "river", "garden", "tower"]

TINY = [
    *("--size", "tiny", "--model.num_layers", "1", "--model.num_heads", "2", "--model.hidden_dim", "32"),
    *("--model.max_sequence_length", "32", "--sequence_length", "32", "--batch_size", "8"),
]
PRETRAINING = [*TINY, "--vocabulary_size", "120", "--processes", "1", "--learning_rate", "1e-2"]


def sentence(random: np.random.Generator, animal: str) -> str:
    """One of some hundred on the animal."""
    adjective, verb, place = (random.choice(words) for words in (ADJECTIVES, VERBS, PLACES))
    return f"The {adjective} {animal} {verb} near the {place}."


def load_recipe(name: str) -> ModuleType:
    """Returns the module of recipes/NAME.py, or of recipes/NAME/, whose parts can then be imported by their names."""
    module_name = f"recipe_{name}"
    if module_name not in sys.modules:
        path = RECIPES / f"{name}.py"
        if (RECIPES / name).is_dir():
            path = RECIPES / name / "__main__.py"
            sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their annotations up there
        spec.loader.exec_module(module)
    return sys.modules[module_name]


@pytest.fixture(scope="session")
def recipe():
    """From a name to the recipe's module."""
    return load_recipe


@pytest.fixture(scope="session")
def run_recipe():
    """Runs a recipe with a command line, as `python recipes/NAME.py` would; returns the exit code."""

    def run(name: str, *argv) -> int:
        module = load_recipe(name)
        try:
            cli.run(module.main, module.Config, [str(argument) for argument in argv])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The cache of tokenized corpora, away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """30 documents of 8 sentences."""
    random = np.random.default_rng(0)
    documents = [
        "\n".join(sentence(random, ANIMALS[number % len(ANIMALS)]) for _ in range(8)) for number in range(30)
    ]
    path = tmp_path_factory.mktemp("corpus") / "animals.txt"
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_rows():
    """Pairs of sentences, whether both are about one animal, and how many words they share, per word."""

    def make(count: int, seed: int) -> list[tuple[str, str, str, float]]:
        random = np.random.default_rng(seed)
        rows = []
        for number in range(count):
            first = ANIMALS[random.integers(2)]
            second = ANIMALS[random.integers(2)]
            texts = sentence(random, first), sentence(random, second)
            shared = len(set(texts[0].split()) & set(texts[1].split())) / 7
            rows.append((*texts, "cats" if first == "cat" else "dogs", shared + 0.001 * number))
        return rows

    return make


@pytest.fixture(scope="session")
def pretrained(corpus, run_recipe, without_compiling, tmp_path_factory) -> Path:
    """A finished pretraining run of 40 steps, dropout and validation switched on."""
    path = tmp_path_factory.mktemp("runs") / "pretrained"
    with without_compiling(eagerly=False):
        assert run_recipe("pretrain_bert", *pretraining_options(corpus, path)) == 0
    return path


def pretraining_options(corpus: Path, output: Path) -> list[str]:
    """Of `pretrained`, for runs that are to equal it."""
    return [
        *("--corpus", str(corpus), "--output", str(output), "--steps", "40", "--validation_fraction", "0.2"),
        *("--eval_interval", "20", "--warmup", "4", "--model.dropout", "0.1", "--seed", "3", *PRETRAINING),
    ]


@pytest.fixture(scope="session")
def options():
    """`pretraining_options`."""
    return pretraining_options


@pytest.fixture(scope="session")
def tiny() -> dict[str, list[str]]:
    """Options of a tiny model, and of its pretraining."""
    return {"model": TINY, "pretraining": PRETRAINING}


@pytest.fixture(scope="session")
def read_run():
    """The lines of metrics.jsonl without the timings, and results.json."""

    def read(path: Path) -> tuple[list[dict], dict]:
        lines = [json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            for name in [name for name in line if "second" in name]:
                del line[name]
        return lines, json.loads((path / "results.json").read_text())

    return read
