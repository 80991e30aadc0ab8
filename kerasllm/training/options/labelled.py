"""Settings of labeled texts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from kerasllm.data.sources.label_values import renamed
from kerasllm.data.sources.labelled import LabelledTexts, read_labelled
from kerasllm.data.sources.splitting import text_key
from kerasllm.errors import InputError
from kerasllm.training.options.fine_tuning import FineTuningOptions


@dataclass(kw_only=True)
class LabelledOptions(FineTuningOptions):
    """Settings for the labeled texts, or pairs of texts, that a model is fine-tuned on."""

    group: ClassVar[str] = "data"

    train: str
    """Training data: a file, or hub:ID of a data set."""

    text_columns: str | None = None
    """One column or two, separated by a comma: names, or numbers from 0 if the file has no header."""

    label_column: str | None = None
    """Column of the labels: its name, or its number from 0."""

    task: Literal["auto", "classification", "regression"] = "auto"
    """auto chooses regression if every label is a number and at least one is not whole."""

    multi_label: bool = False
    """A text may have several labels or none: a list in .jsonl and .parquet, or parts of a cell, as in "sea,storm"."""

    label_separator: str = ","
    """With --multi_label: what stands between the labels of a cell."""

    label_names: str | None = None
    """Names of the classes for predictions and the saved model: 0=negative,1=positive."""

    def read(self, seed: int) -> dict[str, LabelledTexts]:
        """Returns the data by part; validation and test data have the task and labels of the training data.

        Args:
            seed: seed of the choice of examples that are set aside.

        Raises:
            InputError: a file cannot be read, a label of one part does not occur in training, or `label_names` does
                not name each class.
        """
        columns = self.text_columns, self.label_column
        if self.multi_label and self.task == "regression":
            raise InputError("--multi_label is for classes, and --task is regression: give one of the two")
        if not self.label_separator:
            raise InputError("--label_separator is empty: give the text between two labels, such as ','")
        several: dict[str, Any] = {"separator": self.label_separator if self.multi_label else None}
        whole = read_labelled(self.train, *columns, task=self.task, split="train", **several)
        like: dict[str, Any] = {"task": whole.task, "label_names": whole.label_names, **several}
        strata = None if whole.label_names is None else list(map(repr, whole.labels.tolist()))
        groups = [text_key(*texts) for texts in whole.texts]
        parts = {
            name: whole.select(records) for name, records in self.set_aside(groups, seed, strata).items()
        }
        for name, source in self.sources.items():
            if name != "train":
                parts[name] = read_labelled(source, *columns, split=name, **like)
        names = renamed(whole.label_names, self.label_names) if self.label_names else whole.label_names
        return {name: dataclasses.replace(part, label_names=names) for name, part in parts.items()}
