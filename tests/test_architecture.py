"""The rules of the house, read from the source: who imports whom, lengths of files, what is documented."""

import ast
import os
import subprocess
import sys
import time
import tomllib
import warnings
from functools import cache
from pathlib import Path

import pytest

import kerasllm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "kerasllm").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
BACKENDS = {"jax", "jaxlib", "torch", "tensorflow"}

# What each part may import of kerasllm, beside itself, `errors` and `processes`: arrows go downwards only.
MAY_IMPORT = {
    "errors": set(),
    "processes": set(),
    "files": set(),
    "cli": {"files"},
    "tokenizers": {"files"},
    "data": {"tokenizers", "files"},
    "backend": set(),
    "layers": {"backend"},
    "losses": {"backend"},
    "embedding_losses": {"layers"},
    "metrics": {"backend", "losses"},
    "checkpoints": {"layers", "backend", "tokenizers", "files"},
    "generation": {"layers", "backend", "tokenizers", "files"},
    "models": {"checkpoints", "generation", "layers", "backend", "losses", "tokenizers", "files"},
    "retrieval": {"data", "tokenizers", "files"},
    "tasks": {"models", "checkpoints", "generation", "layers", "backend", "losses", "metrics", "data"}
    | {"embedding_losses", "retrieval", "tokenizers", "files"},
    "training": {"tasks", "models", "checkpoints", "generation", "layers", "backend", "losses", "metrics"}
    | {"data", "retrieval", "tokenizers", "files", "cli", ""},
    "export": {
        "training",
        "tasks",
        "models",
        "checkpoints",
        "layers",
        "backend",
        "data",
        "tokenizers",
        "files",
    },
    "serving": {"tasks", "generation", "checkpoints", "tokenizers", "files", ""},
    "search": {"__main__", "training", "cli", "files"},
    "__main__": {""},
    # kerasllm/__init__.py, which loads data, tasks and tokenizers on use
    "": {
        "backend",
        "models",
        "losses",
        "embedding_losses",
        "metrics",
        "checkpoints",
        "generation",
        "data",
        "tasks",
        "tokenizers",
    },
}

names = [str(path.relative_to(ROOT)) for path in PACKAGE + RECIPES]
every_file = pytest.mark.parametrize("path", PACKAGE + RECIPES, ids=names)


@cache
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


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circles():
    """No module imports one that imports it, by however many steps, inside functions either."""
    modules = {module_of(path): path for path in PACKAGE}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = set()
        for name in imported(path):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module:
                found.add(target)
        graph[module] = found - {"kerasllm"}  # the public names, which `__init__` gathers from below
    state: dict[str, int] = {}

    def visit(module: str, way: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, " -> ".join((*way[way.index(module) :], module))
        state[module] = 1
        for other in sorted(graph[module]):
            visit(other, (*way, module))
        state[module] = 2

    for module in sorted(graph):
        visit(module, ())


def test_three_files_of_one_prefix_are_a_folder():
    counts: dict[tuple[Path, str], list[str]] = {}
    for path in PACKAGE:  # a recipe's name is its command
        if "_" in path.stem.strip("_"):
            counts.setdefault((path.parent, path.stem.split("_")[0]), []).append(path.name)
    assert not [names for names in counts.values() if len(names) >= 3]


@pytest.mark.parametrize("path", PACKAGE, ids=[str(path.relative_to(ROOT)) for path in PACKAGE])
def test_imports_go_downwards(path):
    part = part_of_file(path)
    assert part in MAY_IMPORT, f"{path} is in no part that the design knows"
    for name in imported(path):
        top = name.split(".")[0]
        assert top != "recipes", f"{path} imports a recipe"
        assert part == "backend" or top not in BACKENDS, f"{path} imports {top}: only kerasllm/backend may"
        if top == "kerasllm":
            allowed = MAY_IMPORT[part] | {part, "errors", "processes"}
            assert part_of(name) in allowed, f"{path} imports {name}, which is not below it"
        if part == "data":
            assert not name.startswith(("keras.layers", "keras.Model")), f"{path} imports {name}"


@pytest.mark.parametrize("path", RECIPES, ids=[str(path.relative_to(ROOT)) for path in RECIPES])
def test_recipes_stand_alone(path):
    """No recipe imports another, a backend, or what a user of the package does not have; its own parts it may."""
    parts = {other.stem for other in RECIPES if other.parent == path.parent != ROOT / "recipes"}
    others = {other.stem for other in RECIPES} - parts
    for name in imported(path):
        assert name.split(".")[0] not in {*BACKENDS, "recipes", "tests", *others}


def test_parts_of_recipes_have_names_of_their_own():
    """They are imported by their bare names: no two alike, and none that a library has."""
    parts = [path.stem for path in RECIPES if path.stem != "__main__"]
    assert len(parts) == len(set(parts))
    assert not set(parts) & set(sys.stdlib_module_names)


def test_modules_of_data_leave_keras_alone():
    """Only those that hand batches to `fit` know Keras."""
    users = {path for path in PACKAGE if part_of_file(path) == "data" and "keras" in map(top, imported(path))}
    assert all(path.parent.name in ("batches", "text_data") for path in users)


def top(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.filterwarnings("default::UserWarning")
@every_file
def test_length_and_name(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert path.stem not in ("utils", "common", "helpers", "misc")
    assert path.parent != ROOT / "recipes" or lines <= 150, (
        f"{path} has {lines} lines: a recipe is at most 150"
    )
    if lines > 500:
        warnings.warn(f"{path} has {lines} lines: does it say one thing?", LongFile, stacklevel=1)


class LongFile(UserWarning):
    """A file that wants to be looked at; no test fails because of it."""


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
        node
        for node in ast.walk(tree_of(ROOT / "kerasllm" / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kerasllm")
    ]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    assert set(kerasllm.__all__) == names | {"__version__"}
    promised = {"BertConfig", "BertBackbone", "BertPretraining", "BertMaskedLM", "BertClassifier"}
    assert promised | {"MaskedLanguageModelLoss", "NextSentenceLoss"} <= names
    for name in names:
        value = getattr(kerasllm, name)
        assert not callable(value) or value.__doc__, name


def test_the_command_lists_recipes_without_keras():
    """In less than 0.3 s beyond Python's own start; all there are, each with a line."""
    code = "import sys; sys.argv = ['kerasllm', '--help']; from kerasllm.__main__ import main; main(); "
    code += "print('keras' in sys.modules, file=sys.stderr)"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    assert done.stderr.split() == ["False"] and seconds < 1
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {path.stem for path in (ROOT / "recipes").glob("*.py")} <= listed
    assert all(len(line.split()) > 2 for line in done.stdout.splitlines() if line.startswith("  "))
