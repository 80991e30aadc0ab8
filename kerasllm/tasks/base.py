"""What every task offers: how a model is compiled for it, what a model's figures are, and what it predicts."""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras

from kerasllm import backend
from kerasllm.errors import InputError, NewHeadWarning
from kerasllm.tasks.saved_model import SavedModel


@dataclass(frozen=True)
class PredictionSettings:
    """How texts are predicted for.

    Args:
        sequence_length: tokens of a text at most, special tokens included; longer texts are cut.
        batch_size: texts at a time.
        top_k: candidates where a task offers several.
    """

    sequence_length: int
    batch_size: int = 64
    top_k: int = 5


class Task(abc.ABC):
    """A task that models are trained for, evaluated at and used for.

    Attributes:
        name: as results and options call it.
        monitors: the figures of `evaluate` that a run may go by when it chooses its best weights.
    """

    name: ClassVar[str]
    monitors: ClassVar[tuple[str, ...]] = ("loss",)

    def compile(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        normalized_weights: bool = False,
        jit_compile: bool | str | None = None,
    ) -> None:
        """Compiles a model with the task's losses and metrics, whose logs are then each batch's own.

        Args:
            model: of a class that the task is for.
            optimizer: any; None where the model is only to be evaluated.
            normalized_weights: whether the data's weights are divided by their sum already, as batches with
                gradient accumulation have them; the losses then sum instead of taking the mean.
            jit_compile: as `model.compile` takes it; the backend's own choice where None.
        """
        reduction = "sum" if normalized_weights else "mean_with_sample_weight"
        model.compile(
            optimizer=optimizer or "sgd",
            jit_compile=backend.jit_compile if jit_compile is None else jit_compile,
            **self.losses_and_metrics(model, reduction),
        )
        model.per_step_metrics = True

    @abc.abstractmethod
    def losses_and_metrics(self, model: keras.Model, reduction: str) -> dict[str, Any]:
        """Returns the arguments `loss` and, where there are metrics, `weighted_metrics` of `model.compile`.

        Args:
            model: of a class that the task is for.
            reduction: of the losses.
        """

    @abc.abstractmethod
    def evaluate(self, model: keras.Model, batches: Any) -> dict[str, Any]:
        """Returns the figures of a model on a whole data set, `loss` among them.

        Args:
            model: compiled by `compile`.
            batches: a sequence of inputs, labels and plain weights, 1 or 0, in a fixed order.
        """

    @classmethod
    @abc.abstractmethod
    def serves(cls, settings: Mapping[str, Any]) -> bool:
        """Returns whether the content of a config.json is that of a model for this task."""

    @classmethod
    def predict(
        cls, saved: SavedModel, texts: Sequence[tuple[str, ...]], options: PredictionSettings
    ) -> list[dict[str, Any]]:
        """Returns a prediction for each text, as JSON can hold it.

        Args:
            saved: the model, whose weights are read here.
            texts: tuples of one text, or of a pair.
            options: how.

        Raises:
            InputError: the model, or a text, does not suit the task.
        """
        raise InputError(f"{saved.directory}: there are no predictions for {cls.name}")

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns the lines that show one of `predict`'s rows to a person."""
        return [str(dict(prediction))]


def numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Returns the figures that are single numbers, undefined ones as NaN, for the log of a run.

    Args:
        figures: of `Task.evaluate`; counts of examples and nested tables are left out.
    """
    return {
        name: math.nan if value is None else float(value)
        for name, value in figures.items()
        if name != "examples" and not isinstance(value, Mapping)
    }


def load_whole(model_class: Any, directory: Path, heads: set[str]) -> Any:
    """Returns a model all of whose `heads` are in its checkpoint: predictions of a new head would be noise.

    Args:
        model_class: has `from_pretrained`.
        directory: holds the model.
        heads: names of layers.

    Raises:
        InputError: the checkpoint lacks one of them.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = model_class.from_pretrained(directory)
    for warning in (each.message for each in caught):
        if isinstance(warning, NewHeadWarning) and (found := sorted(heads.intersection(warning.heads))):
            raise InputError(
                f"{directory}: the weights hold no {' and no '.join(found)}: fine-tune or pretrain the model first"
            )
        warnings.warn(warning, stacklevel=2)
    return model
