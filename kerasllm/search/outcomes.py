"""The outcome of a trial, and the figure by which trials are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kerasllm.errors import InputError
from kerasllm.search.recipe import as_text

VALIDATION = "validation."


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Args:
        name: its number from 1, as its directory is called.
        state: "complete", "pruned", "failed" or "cut".
        value: its validation figure; the last one of a pruned trial; None if there is none.
        settings: the settings that were tried, by dotted name.
        reason: why it failed, or "".
        validations: the figure of each validation, by the number of the validation.
        seconds: the time of its training.
    """

    name: str
    state: str
    value: float | None
    settings: Mapping[str, Any]
    reason: str
    validations: Mapping[int, float]
    seconds: float | None


def check_metric(metric: str) -> str:
    """Returns the metric.

    Raises:
        InputError: it is no figure of the validation, or a table of figures.
    """
    if not metric.startswith(VALIDATION) or metric == VALIDATION or "." in metric.removeprefix(VALIDATION):
        raise InputError(
            f"--metric {metric}: settings are chosen by a figure of the validation, as validation.loss"
        )
    return metric


def in_a_line(trial: Trial, metric: str) -> str:
    """Returns the outcome of a trial in a line."""
    settings = " ".join(f"{name}={as_text(value)}" for name, value in trial.settings.items())
    value = "" if trial.value is None else f" {metric} {trial.value:.4f},"
    seconds = "" if trial.seconds is None else f" ({trial.seconds:.0f} s)"
    return f"{trial.name}: {trial.state},{value} {settings}{seconds}" + (
        f": {trial.reason}" if trial.reason else ""
    )
