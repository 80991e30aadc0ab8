"""Finds out which backend Keras will take before Keras is imported.

Where its backend is not installed, Keras itself ends in a `ModuleNotFoundError` thirty frames down that names neither
the setting nor the mend. The rule is Keras' own: KERAS_BACKEND, else keras.json, else tensorflow. But where that is not
installed, KERAS_BACKEND is not set and a single backend is installed, that one is taken: Keras writes keras.json itself
on its first import, so that it seldom tells what a user wants.
"""

import contextlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

BACKENDS = ("jax", "torch", "tensorflow")


class BackendError(ImportError):
    """The chosen backend is not installed, or not one of those that kerasllm runs on."""


def choose() -> str:
    """Imports Keras, if need be, and returns the name of its backend.

    Raises:
        BackendError: that backend is not installed or not supported; names those that are installed. Where
            it ends a script it is printed as one line, with exit code 2.
    """
    if "keras" not in sys.modules:
        name, reason = _choice()
        if name not in BACKENDS or find_spec(name) is None:
            there = [other for other in BACKENDS if find_spec(other) is not None]
            if os.environ.get("KERAS_BACKEND") or len(there) != 1:
                raise _error(name, reason)
            os.environ["KERAS_BACKEND"] = there[0]  # Keras reads it when it is imported
    import keras

    name = keras.backend.backend()
    if name not in BACKENDS:
        raise _error(name, f"Keras runs on {name}")
    return name


def _choice() -> tuple[str, str]:
    """Returns the backend, and a text that says where it was chosen."""
    if os.environ.get("KERAS_BACKEND"):
        name = os.environ["KERAS_BACKEND"]
        return name, f"KERAS_BACKEND is {name}"
    home = os.path.expanduser("~")
    base = home if os.access(home, os.W_OK) else "/tmp"
    settings = Path(os.environ.get("KERAS_HOME") or Path(base, ".keras"), "keras.json")
    chosen: str | None = None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # as Keras, which then goes on without
        chosen = json.loads(settings.read_text(encoding="utf-8")).get("backend")
    if chosen:
        return chosen, f"KERAS_BACKEND is not set and {settings} says {chosen}"
    return "tensorflow", "KERAS_BACKEND is not set, so Keras takes tensorflow"


def _error(name: str, reason: str) -> BackendError:
    fault = "which is not installed" if name in BACKENDS else f"kerasllm runs on {', '.join(BACKENDS)}"
    there = [other for other in BACKENDS if find_spec(other) is not None]
    mend = f"set KERAS_BACKEND={there[0]}" if there else "install one of them, e.g. pip install jax"
    if len(there) > 1:
        mend += f" (or {' or '.join(there[1:])})"
    _print_in_one_line()
    return BackendError(f"{reason}, {fault}: {mend}")


def _print_in_one_line() -> None:
    """Makes the hook for uncaught errors print it: a recipe imports kerasllm before it can catch anything."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, BackendError):
            before(kind, error, trace)
            return
        print("error:", error, file=sys.stderr)
        raise SystemExit(2)

    sys.excepthook = hook
