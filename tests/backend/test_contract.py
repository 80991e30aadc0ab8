"""The backends hold what the contract names, and no more; and Keras' import is left as it is."""

import ast
import itertools
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = ROOT / "kerasllm" / "backend"
MODULES = ("ops", "losses", "training", "guard", "decoding", "distribution", "recurrent", "device")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def contract() -> dict[str, dict[str, str]]:
    """Of each module the names, and what they take; the docstring after an assignment, or after a comment."""
    found: dict[str, dict[str, str]] = {module: {} for module in MODULES}
    body = tree_of(BACKEND / "__init__.py").body
    for node, after in itertools.pairwise(body):
        text = ast.literal_eval(after.value) if is_text(after) else ""
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            name, module = ast.unparse(node.targets[0]), ast.unparse(node.value.value)
            assert node.value.attr == name and text, f"{name} is not described"
            signature = re.match(r"(\w+)(\(.*\))\n", text)
            found[module][name] = signature[2] if signature else ""
            assert signature is None or signature[1] == name
        elif text:
            found["decoding"] |= dict(re.findall(r"^(\w+)(\(.*\))$", text, re.MULTILINE))
    return found


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def signature(function: ast.FunctionDef) -> str:
    for argument in [*function.args.args, *function.args.kwonlyargs, function.args.vararg]:
        if argument is not None:
            argument.annotation = None
    return f"({ast.unparse(function.args)})"


@pytest.mark.parametrize("name", ["jax", "torch", "tensorflow"])
@pytest.mark.parametrize("module", MODULES)
def test_a_backend_defines_what_the_contract_names(name, module):
    expected, defined = contract()[module], {}
    assert expected
    for node in tree_of(BACKEND / name / f"{module}.py").body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = signature(node) if isinstance(node, ast.FunctionDef) else "a class"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                defined[ast.unparse(target)] = ""
        elif isinstance(node, ast.ImportFrom):  # from the formulas that all share
            names = [alias.name for alias in node.names if (alias.asname or alias.name) in expected]
            for some in names:
                (source,) = [
                    one
                    for one in tree_of(ROOT / f"{node.module.replace('.', '/')}.py").body
                    if isinstance(one, ast.FunctionDef) and one.name == some
                ]
                defined[some] = signature(source)
    assert {key: value for key, value in defined.items() if not key.startswith("_")} == expected


def test_what_is_imported_afterwards_is_the_real_module():
    packages = [name for name in ("pandas", "jax", "torch", "sklearn", "matplotlib") if find_spec(name)]
    code = (
        "import importlib, kerasllm\n"
        f"for name in {packages}:\n"
        "    found = importlib.import_module(name)\n"
        "    print(type(found).__name__, found.__file__, found.__version__)\n"
        "import pandas\n"
        "assert isinstance(pandas.DataFrame({'a': [1]}), pandas.DataFrame)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for package, line in zip(packages, done.stdout.splitlines()[-len(packages) :], strict=True):
        kind, file, version = line.split()
        assert kind == "module" and f"/{package}/__init__.py" in file and version
