"""Tasks, each with its loss, its metrics, its evaluation on a data set and its predictions.

A new task is a file here and a line in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasllm.errors import InputError
from kerasllm.tasks.base import PredictionSettings, Task, numbers
from kerasllm.tasks.causal_lm import CausalLanguageModeling
from kerasllm.tasks.classification import Classification
from kerasllm.tasks.masked_lm import MaskedLanguageModeling
from kerasllm.tasks.regression import Regression

TASKS: tuple[type[Task], ...] = (MaskedLanguageModeling, CausalLanguageModeling, Classification, Regression)


def task_of(settings: Mapping[str, Any], directory: Path) -> type[Task]:
    """Returns the task of a saved model.

    Args:
        settings: the content of its config.json.
        directory: the model's directory, for messages.

    Raises:
        InputError: `architectures` is no list of names, or the model belongs to no task in `TASKS`.
    """
    architectures = settings.get("architectures")
    if architectures and not (isinstance(architectures, list) and isinstance(architectures[0], str)):
        raise InputError(
            f"{directory / 'config.json'}: architectures is {str(architectures)[:60]}, it must be a list of names"
        )
    for task in TASKS:
        if task.serves(settings):
            return task
    name = (architectures or [settings.get("model_type")])[0]
    raise InputError(f"{directory / 'config.json'}: {name} is a model of no task that is known here")


__all__ = [
    "TASKS",
    "CausalLanguageModeling",
    "Classification",
    "MaskedLanguageModeling",
    "PredictionSettings",
    "Regression",
    "Task",
    "numbers",
    "task_of",
]
