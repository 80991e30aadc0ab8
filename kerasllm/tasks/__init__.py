"""Tasks: for each its loss, its metrics, its figures on a data set and its predictions.

A new task is a file here and a line in `TASKS`.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from kerasllm.checkpoints import resolve_directory
from kerasllm.errors import InputError
from kerasllm.models.registry import model_class_of, read_settings
from kerasllm.tasks.base import PredictionSettings, Task, numbers
from kerasllm.tasks.causal_lm import CausalLanguageModeling
from kerasllm.tasks.classification import Classification
from kerasllm.tasks.embedding import Embedding
from kerasllm.tasks.masked_lm import MaskedLanguageModeling
from kerasllm.tasks.question_answering import QuestionAnswering
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
    QuestionAnswering,
    Embedding,
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


@contextlib.contextmanager
def pointing_to_recipe(source: str, recipe: str, running: str = "") -> Iterator[None]:
    """Replaces an `InputError` of the block by the command to type, if the model is used by another recipe.

    Args:
        source: a run directory, a model directory or a hub id.
        recipe: the recipe of the task that the model should be for.
        running: the recipe that is running, if it is another one.

    Raises:
        InputError: the error from inside the block, or one that names the command.
    """
    try:
        yield
    except InputError as error:
        task = None
        with contextlib.suppress(InputError):
            directory = resolve_directory(source)
            model_class = model_class_of(read_settings(directory)[1], directory)
            task = next((each for each in TASKS if model_class in each.model_classes), None)
        if task is None or task.recipe == recipe:
            raise
        words = ["kerasllm", task.recipe, "--model", source, *task.example]
        raise InputError(
            f"{source} is a model for {task.name}, which {running or recipe} does not use: {shlex.join(words)}"
        ) from error


__all__ = [
    "TASKS",
    "CausalLanguageModeling",
    "Classification",
    "Embedding",
    "MaskedLanguageModeling",
    "PredictionSettings",
    "QuestionAnswering",
    "Regression",
    "SavedModel",
    "Tagging",
    "Task",
    "Translation",
    "numbers",
    "pointing_to_recipe",
    "task_of",
]
