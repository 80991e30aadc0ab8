"""Packages that only an export needs, which may be missing."""

from __future__ import annotations

import importlib.util

from kerasllm.errors import InputError


def require(purpose: str, extra: str, *packages: str) -> None:
    """Checks that packages are installed, before they are imported.

    Args:
        purpose: what they are needed for, such as "ONNX".
        extra: the extra of kerasllm that installs them.
        packages: their names.

    Raises:
        InputError: one of them is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{purpose} needs {' and '.join(missing)}: pip install 'kerasllm[{extra}]'")
