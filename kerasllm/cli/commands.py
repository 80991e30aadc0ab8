"""Writes the command that runs a recipe, as it is pasted into a shell."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def command(recipe: str, arguments: Sequence[str]) -> str:
    """Returns the command that runs a recipe in the way in which this process was started.

    Args:
        recipe: the recipe's name, such as "predict".
        arguments: its arguments, without quotation marks.
    """
    beside = Path(sys.argv[0]).with_name(f"{recipe}.py")
    if beside.is_file():
        start = [_python(), str(beside)]
    elif shutil.which("kerasllm"):
        start = ["kerasllm", recipe]
    else:
        start = [_python(), "-m", "kerasllm", recipe]
    backend = os.environ.get("KERAS_BACKEND")
    words = " ".join(map(quoted, [*start, *arguments]))
    return f"KERAS_BACKEND={quoted(backend)} {words}" if backend else words


def quoted(word: str) -> str:
    """Returns a word as a shell reads it, in double quotation marks where these suffice."""
    plain = shlex.quote(word)
    if plain == word or any(sign in word for sign in '"$`\\!'):
        return plain
    if "\t" in word or "\n" in word:
        escaped = word.replace("'", "\\'").replace("\t", "\\t").replace("\n", "\\n")
        return f"$'{escaped}'"
    return f'"{word}"'


def _python() -> str:
    """Returns "python" if that is the interpreter of this process, else the interpreter's path."""
    found = shutil.which("python")
    same = found is not None and Path(found).resolve() == Path(sys.executable).resolve()
    # A virtual environment's python is a link to another one's, which lacks its packages.
    return "python" if same and Path(str(found)).parent == Path(sys.executable).parent else sys.executable
