"""The rules of the house, read from the source: who imports whom, lengths of files, the cost of importing."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

import kerasllm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "kerasllm").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
BACKENDS = {"jax", "jaxlib", "torch", "tensorflow"}

# What each part may import of kerasllm, beside itself and `errors`.
MAY_IMPORT = {
    "errors": set(),
    "files": {"cli"},
    "backend": set(),
    "layers": {"backend"},
    "losses": {"backend"},
    "metrics": {"backend", "losses"},
    "tokenizers": {"data", "files"},
    "data": {"tokenizers", "files"},
    "checkpoints": {"models", "layers", "backend", "tokenizers", "files"},
    "generation": {"models", "layers", "backend", "tokenizers"},
    "models": {"checkpoints", "layers", "backend", "losses"},
    "cli": {"files"},
    "tasks": {
        *("models", "layers", "backend", "losses", "metrics", "data", "tokenizers", "files", "generation"),
        "training",
    },
    "training": {
        *("tasks", "models", "layers", "backend", "losses", "metrics", "data", "tokenizers", "files"),
        *("checkpoints", "generation", "cli", ""),
    },
    "": {
        "backend",
        "models",
        "layers",
        "losses",
        "metrics",
        "checkpoints",
        "generation",
    },  # kerasllm/__init__.py
}

names = [str(path.relative_to(ROOT)) for path in PACKAGE + RECIPES]
every_file = pytest.mark.parametrize("path", PACKAGE + RECIPES, ids=names)


@lru_cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Dotted names of all imports of a file, inside functions too."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "__import__"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                found.add(argument.value)
    return found


def part_of(name: str) -> str:
    """The part of kerasllm that a dotted name lies in; "" for the package itself."""
    part = [*name.split("."), ""][1]
    return part if part in MAY_IMPORT else ""


def part_of_file(path: Path) -> str:
    parts = path.relative_to(ROOT / "kerasllm").parts
    return "" if parts == ("__init__.py",) else parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", PACKAGE, ids=[str(path.relative_to(ROOT)) for path in PACKAGE])
def test_imports_go_downwards(path):
    part = part_of_file(path)
    assert part in MAY_IMPORT, f"{path} is in no part that the design knows"
    for name in imported(path):
        top = name.split(".")[0]
        assert top != "recipes", f"{path} imports a recipe"
        assert part == "backend" or top not in BACKENDS, f"{path} imports {top}: only kerasllm/backend may"
        if top == "kerasllm":
            allowed = MAY_IMPORT[part] | {part, "errors"}
            assert part_of(name) in allowed, f"{path} imports {name}, which is not below it"
        if part == "data":
            assert not name.startswith(("keras.layers", "keras.Model")), f"{path} imports {name}"


@pytest.mark.parametrize("path", RECIPES, ids=[path.name for path in RECIPES])
def test_recipes_stand_alone(path):
    """No recipe imports another, a backend, or what a user of the package does not have."""
    for name in imported(path):
        assert name.split(".")[0] not in {*BACKENDS, "recipes", "tests", *(other.stem for other in RECIPES)}


def test_modules_of_data_leave_keras_alone():
    """Only those that hand batches to `fit` know Keras."""
    users = {path for path in PACKAGE if part_of_file(path) == "data" and "keras" in map(top, imported(path))}
    assert all(path.parent.name == "batches" for path in users)


def top(name: str) -> str:
    return name.split(".")[0]


@every_file
def test_length_and_name(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{path} has {lines} lines: it wants to be two files"
    assert path.stem not in ("utils", "common", "helpers", "misc")


def safe_loaders(tree: ast.Module) -> set[str]:
    """YAML loaders that make only text, numbers, lists and mappings; a file's own ones of that kind too."""
    safe = {"yaml.SafeLoader", "yaml.BaseLoader"}
    own = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and safe & set(map(ast.unparse, node.bases))
    }
    return safe | own


@every_file
def test_nothing_is_executed_from_data(path):
    """No pickle, eval, exec, Lambda, unsafe YAML or torch.load; no remote code, unpacked archive or shell."""
    for name in imported(path):
        assert top(name) not in {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            alone = isinstance(node.func, ast.Name)
            place = f"{path}:{node.lineno}"
            assert not (alone and called in ("eval", "exec", "compile", "__import__")), place
            assert called not in ("Lambda", "unsafe_load", "enable_unsafe_deserialization"), place
            assert called not in ("extractall", "unpack_archive", "load_model", "read_pickle"), place
            assert ast.unparse(node.func) not in ("torch.load", "os.system", "os.popen"), place
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            for forbidden in ("allow_pickle", "trust_remote_code", "shell"):
                assert words.get(forbidden, "False") == "False", place
            assert words.get("safe_mode", "True") == "True", place
            if ast.unparse(node.func) == "yaml.load":
                (loader,) = (ast.unparse(word.value) for word in node.keywords if word.arg == "Loader")
                assert loader in safe_loaders(tree_of(path)), place


def test_keras_is_one_whose_files_run_no_code():
    """Older ones have: CVE-2025-12060 and those before it."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (keras,) = (line for line in requirements if line.startswith("keras"))
    least = tuple(map(int, keras.removeprefix("keras>=").split(".")))
    assert least >= (3, 13, 2)


def public_definitions(path: Path):
    """Top-level classes and functions without an underscore, and the public methods of the classes."""
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


@every_file
def test_docstrings(path):
    assert ast.get_docstring(tree_of(path)), f"{path} does not say what it is for"
    missing = [name for name, node in public_definitions(path) if not ast.get_docstring(node)]
    assert not missing


def test_top_level_entries():
    """What lies at the top of the checkout; git knows, so that build outputs do not count."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("no git checkout: what belongs to the project cannot be told from build outputs")
    entries = {line.split("/")[0].strip('"') for line in listed.stdout.splitlines()}
    visible = {entry for entry in entries if not entry.startswith(".")}
    agreed = {"pyproject.toml", "README.md", "LICENSE", "tox.ini", "kerasllm", "recipes", "tests"}
    assert visible <= agreed
    assert not [entry for entry in entries if entry in (".tox", ".venv", ".env")]


def test_all_is_complete():
    """Everything public is exported, exists, and has a docstring."""
    assert sorted(kerasllm.__all__) == sorted(set(kerasllm.__all__))
    imports = [
        node for node in tree_of(ROOT / "kerasllm" / "__init__.py").body if isinstance(node, ast.ImportFrom)
    ]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    assert set(kerasllm.__all__) == names | {"__version__"}
    promised = {"BertConfig", "BertBackbone", "BertPretraining", "BertMaskedLM", "BertClassifier"}
    assert promised | {"MaskedLanguageModelLoss", "NextSentenceLoss"} <= names
    for name in names:
        value = getattr(kerasllm, name)
        assert not callable(value) or value.__doc__, name


IMPORT = """
import json, sys, time
import keras
before = set(sys.modules)
began = time.perf_counter()
import kerasllm
print(json.dumps({"seconds": time.perf_counter() - began, "new": sorted(set(sys.modules) - before)}))
"""


def test_importing_is_cheap():
    """Beyond Keras and its backend: no heavy library, no second backend, less than half a second."""
    runs = []
    for _ in range(3):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", IMPORT],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        if runs[-1]["seconds"] < 0.5:
            break
    new = {top(name) for name in runs[0]["new"]}
    heavy = {
        "transformers",
        "keras_nlp",
        "keras_hub",
        "datasets",
        "pandas",
        "pyarrow",
        "sklearn",
        "matplotlib",
    }
    heavy |= {"tensorboard", "tensorflow_text", "rich", "scipy", "tokenizers", "huggingface_hub"}
    assert not new & heavy
    assert not new & BACKENDS, "what Keras had not loaded for its backend is loaded now"
    assert min(run["seconds"] for run in runs) < 0.5
