"""The base class of tasks: how a model is compiled, evaluated and used for predictions."""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras

from kerasllm import backend
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError, NewHeadWarning
from kerasllm.tasks.saved_model import SavedModel


@dataclass(frozen=True)
class PredictionSettings:
    """Settings of predictions for texts.

    Args:
        sequence_length: the most tokens of a text, with special tokens; longer texts are truncated.
        batch_size: number of texts in a batch.
        top_k: number of candidates, for a task that gives several.
        probabilities: whether the probabilities of all classes are part of a prediction.
        first: number of texts before these, for messages.
        is_split_into_words: whether the words of a text are divided by single spaces, for a tagger.
    """

    sequence_length: int
    batch_size: int = 64
    top_k: int = 5
    probabilities: bool = False
    first: int = 0
    is_split_into_words: bool = False

    def place(self, number: int) -> str:
        """Returns how messages call a text, by its number, from 0."""
        return f"text {self.first + number + 1}"


class Task(abc.ABC):
    """A task for which models are trained, evaluated and used.

    Attributes:
        name: the name of the task in results and options.
        model_classes: the classes of models that are saved for the task.
        monitors: the figures of `evaluate` by which a run may choose its best weights.
        heads: the head layers that predictions need; those of a new model are untrained.
        reads_wordpiece: whether the tokenizer needs BERT's special tokens.
        heeds_length: whether predictions read texts up to `PredictionSettings.sequence_length`.
        recipe: the recipe that uses a model of the task.
        example: arguments of that recipe beside the model, for a line that tells how to use one.
    """

    name: ClassVar[str]
    model_classes: ClassVar[tuple[type, ...]]
    monitors: ClassVar[tuple[str, ...]] = ("loss",)
    heads: ClassVar[frozenset[str]] = frozenset()
    reads_wordpiece: ClassVar[bool] = True
    heeds_length: ClassVar[bool] = True
    recipe: ClassVar[str] = "predict"
    example: ClassVar[tuple[str, ...]] = ("--text", "A text of your own.")

    def compile(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        normalized_weights: bool = False,
        jit_compile: bool | str | None = None,
    ) -> None:
        """Compiles a model with the task's losses and metrics, and sets `per_step_metrics`.

        Args:
            model: a model of a class that suits the task.
            optimizer: the optimizer; None if the model is only evaluated.
            normalized_weights: whether the sample weights are already divided by their sum, as they are in batches
                for gradient accumulation; the losses then sum instead of taking the mean.
            jit_compile: as in `model.compile`; None means the default of the backend.
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
        """Returns the arguments `loss` and, if there are metrics, `weighted_metrics` of `model.compile`.

        Args:
            model: a model of a class that suits the task.
            reduction: the reduction of the losses.
        """

    @abc.abstractmethod
    def evaluate(self, model: keras.Model, batches: Any) -> dict[str, Any]:
        """Returns the figures of a model on a whole data set, including `loss`.

        Args:
            model: a model that `compile` has compiled.
            batches: a sequence of (inputs, labels, weights) in a fixed order, with weights of 1 or 0.
        """

    def kept_predictions(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns what a run keeps of the last `evaluate` beside its figures: JSON files by name; none by default."""
        return {}

    @classmethod
    def checked(cls, saved: SavedModel) -> SavedModel:
        """Returns a saved model, which must be of a class of this task.

        Raises:
            InputError: it is not; the message names its class.
        """
        if saved.model_class not in cls.model_classes:
            classes = ", ".join(each.__name__ for each in cls.model_classes)
            raise InputError(
                f"{saved.directory}: is a {saved.model_class.__name__}, and this is for {classes}"
            )
        return saved

    @classmethod
    def load(cls, saved: SavedModel) -> Any:
        """Returns the model of a directory, for predictions.

        Raises:
            InputError: the weights cannot be read, or lack a head that predictions need.
        """
        return load_whole(saved.model_class, saved.directory, cls.heads)

    @classmethod
    def predict(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[tuple[str, ...]],
        settings: PredictionSettings,
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns a prediction for each text, as a dict that JSON can hold, and the number of texts that were cut.

        Args:
            model: a model of one of `model_classes`.
            tokenizer: the model's tokenizer.
            texts: tuples of one text or of two, at least one of them.
            settings: the settings of the predictions.

        Raises:
            InputError: a text does not suit the task.
        """
        raise InputError(f"there are no predictions for {cls.name}")

    @classmethod
    def record(cls, text: tuple[str, ...], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a text and its prediction as one line of a file of predictions."""
        return {"text": "\t".join(text), **prediction}

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns the lines of text that show one of the results of `record`."""
        return [str(dict(prediction))]


def numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Returns the figures that are single numbers, with NaN for undefined ones, for the log of a run.

    Args:
        figures: the result of `Task.evaluate`; `examples` and nested tables are left out.
    """
    return {
        name: math.nan if value is None else float(value)
        for name, value in figures.items()
        if name != "examples" and not isinstance(value, Mapping)
    }


def load_whole(model_class: Any, directory: Path, heads: Collection[str], otherwise: str = "") -> Any:
    """Returns a model whose checkpoint has all of its `heads`, as predictions of a new head would be random.

    Args:
        model_class: the model class, which has `from_pretrained`.
        directory: the model directory.
        heads: the names of the head layers that predictions need.
        otherwise: what a checkpoint without them is good for, for the message.

    Raises:
        InputError: the checkpoint lacks one of these heads.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = model_class.from_pretrained(directory)
    for warning in (each.message for each in caught):
        if isinstance(warning, NewHeadWarning) and (found := sorted(set(heads).intersection(warning.heads))):
            raise InputError(
                f"{directory}: the weights hold no {' and no '.join(found)}: fine-tune or pretrain the model first"
                f"{otherwise}"
            )
        warnings.warn(warning, stacklevel=2)
    return model


def prediction_batches(
    tokenizer: Any, texts: Sequence[tuple[str, ...]], settings: PredictionSettings
) -> ClassificationBatches:
    """Returns padded batches of texts without labels, whose few lengths are the same for any texts.

    Lengths are powers of two, and so is the number of rows for a few texts, so that a model is compiled for few shapes.
    """
    encoded = encode_texts(tokenizer, texts, settings.sequence_length, settings.place)
    return ClassificationBatches(
        encoded, None, shuffle=False, **few_shapes(len(texts), settings.batch_size, settings.sequence_length)
    )


def few_shapes(count: int, batch_size: int, sequence_length: int) -> dict[str, Any]:
    """Returns `batch_size` and `buckets` of batches for predictions, of which a model is compiled for few.

    PyTorch predicts without a compiler, so that there a batch is as long as its longest text.

    Args:
        count: the number of texts or windows.
        batch_size: the most rows of a batch.
        sequence_length: the longest length.
    """
    if backend.name == "torch":
        return {"batch_size": min(batch_size, count or 1), "buckets": range(1, sequence_length + 1)}
    lengths = [1 << power for power in range(4, sequence_length.bit_length())]
    buckets = [length for length in lengths if length < sequence_length]
    rows = min(batch_size, 1 << (max(count, 1) - 1).bit_length())
    return {"batch_size": rows, "buckets": [*buckets, sequence_length]}
