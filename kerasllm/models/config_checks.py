"""Checks of settings that the configs of several families share."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from kerasllm.errors import short

_LARGEST = 1e30


def check_token(name: str, value: Any, least: int = 0) -> None:
    """Checks that a setting is a token id of at least `least`.

    Raises:
        ValueError: it is not; the message begins with the setting's name.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) < 2**31:
        raise ValueError(f"{name} is {short(value)}, it must be a token's number")


def check_numbers(config: Any) -> None:
    """Checks `layer_norm_epsilon`, `initializer_range` and `tie_embeddings` of a config.

    Raises:
        ValueError: one of them is invalid; the message begins with the setting's name.
    """
    for name in ("layer_norm_epsilon", "initializer_range"):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST:
            raise ValueError(f"{name} is {short(value)}, it must be a number of at least 0")
    if not isinstance(config.tie_embeddings, bool):
        raise ValueError(f"tie_embeddings is {config.tie_embeddings!r}, it must be true or false")
