"""Tasks: for each its loss, its metrics, its figures on a data set and its predictions.

A new task is a file here and a line in `TASKS`.
"""

from __future__ import annotations

from kerasllm.errors import InputError
from kerasllm.tasks.base import PredictionSettings, Task, numbers
from kerasllm.tasks.causal_lm import CausalLanguageModeling
from kerasllm.tasks.classification import Classification
from kerasllm.tasks.masked_lm import MaskedLanguageModeling
from kerasllm.tasks.regression import Regression
from kerasllm.tasks.saved_model import SavedModel
from kerasllm.tasks.tagging import Tagging
from kerasllm.tasks.translation import Translation

TASKS: tuple[type[Task], ...] = (
    MaskedLanguageModeling,
    CausalLanguageModeling,
    Classification,
    Regression,
    Tagging,
    Translation,
)


def task_of(saved: SavedModel) -> type[Task]:
    """Returns the task that a saved model is for.

    Raises:
        InputError: its config.json names the class of no task.
    """
    for task in TASKS:
        if saved.model_class in task.model_classes:
            return task
    raise InputError(f"{saved.directory}: {saved.model_class.__name__} is the class of no task")


__all__ = [
    "TASKS",
    "CausalLanguageModeling",
    "Classification",
    "MaskedLanguageModeling",
    "PredictionSettings",
    "Regression",
    "SavedModel",
    "Tagging",
    "Task",
    "Translation",
    "numbers",
    "task_of",
]
