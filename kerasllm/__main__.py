"""The command `kerasllm`: `kerasllm pretrain_bert …` does what `python recipes/pretrain_bert.py …` does."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def recipes() -> dict[str, Path]:
    """Returns the recipes by name (files, or folders with a `__main__.py`) of the installed package or the clone."""
    installed, beside = _PACKAGE / "recipes", _PACKAGE.parent / "recipes"
    directory = installed if installed.is_dir() else beside
    files = {path.stem: path for path in directory.glob("*.py")}
    folders = {path.parent.name: path.parent for path in directory.glob("*/__main__.py")}
    return dict(sorted((files | folders).items()))


def main() -> None:
    """Runs the recipe that the first argument names, with the remaining arguments.

    Raises:
        SystemExit: with 2 if there is no such recipe, otherwise with the recipe's own exit code.
    """
    known, arguments = recipes(), sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        with contextlib.suppress(BrokenPipeError):  # of `kerasllm --help | head`
            print(_help(known), flush=True)
        return
    name = arguments[0]
    if name not in known:
        nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
        mend = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(known)}"
        print(f"error: there is no command {name!r}: {mend}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"kerasllm {name}", *arguments[1:]]
    importlib.reload(sys.modules["kerasllm"])  # loads Keras and the public names, see `kerasllm/__init__.py`
    _run(known[name])


def _run(path: Path) -> None:
    """Runs a recipe as `python PATH` would, but with the arguments in `sys.argv`."""
    source = path / "__main__.py" if path.is_dir() else path
    sys.path.insert(0, str(source.parent))
    spec = importlib.util.spec_from_file_location("__main__", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["__main__"] = module
    spec.loader.exec_module(module)


def _help(known: dict[str, Path]) -> str:
    """Returns the help text: all commands, each with the first line of its docstring."""
    lines = ["usage: kerasllm COMMAND [--option value ...]", "", "commands:"]
    for name, path in known.items():
        source = path / "__main__.py" if path.is_dir() else path
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<16} {text.splitlines()[0] if text else ''}")
    return "\n".join([*lines, "", "`kerasllm COMMAND --help` explains the options of a command."])


if __name__ == "__main__":
    main()
