"""Data sets of labeled texts in memory: classes, several classes a text, numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasllm.data.batches.base import check_positive
from kerasllm.data.batches.labelled import LabelledBatches
from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.text_data.base import TextData
from kerasllm.data.text_data.labels import (
    Label,
    check_names,
    class_ids,
    indicators,
    read_label_lists,
    read_labels,
    read_numbers,
    sorted_names,
)
from kerasllm.data.text_data.texts import check_count, check_tokenizer, read_texts
from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.special_tokens import default_length

_PLANNED_EPOCHS = 4  # epochs for which packed rows are planned; see `PackedClassificationBatches`


class _LabelledTexts(TextData):
    """The base class of data sets of texts with labels, padded or packed.

    Args:
        encoded: arguments of `encode_texts`.
        labels: the labels as an array, (texts,) or (texts, classes), or None.
        batch_size, shuffle, seed, packing: see `TextClassificationData`.
    """

    def __init__(
        self,
        texts: Any,
        labels: np.ndarray | None,
        *,
        tokenizer: Any,
        batch_size: int,
        sequence_length: int | None,
        shuffle: bool,
        seed: int,
        packing: bool,
    ) -> None:
        check_tokenizer(tokenizer)
        if packing and not shuffle:
            raise InputError("packing puts texts of all lengths together: leave it out with shuffle=False")
        if sequence_length is None:
            sequence_length = default_length(tokenizer, 128)
        check_positive(sequence_length=sequence_length)
        self.encoded = encode_texts(tokenizer, texts, sequence_length)
        self.reads_special_tokens = tokenizer.token_to_id("[CLS]") is not None
        self.num_truncated = self.encoded.num_truncated
        if self.num_truncated:
            warnings.warn(
                f"{self.num_truncated:,} of {len(texts):,} texts are cut to sequence_length {sequence_length}",
                InputWarning,
                stacklevel=3,
            )
        settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        self.has_labels = labels is not None
        batches: LabelledBatches
        if packing:
            batches = PackedClassificationBatches(self.encoded, labels, epochs=_PLANNED_EPOCHS, **settings)
        else:
            settings |= {"shuffle": shuffle, "keep_order": True, "fill": False}
            batches = ClassificationBatches(self.encoded, labels, **settings)
        super().__init__(batches, shuffle=shuffle)
        self.batch_size, self.packing = batch_size, packing

    def __getitem__(self, index: int) -> Any:
        """Returns batch `index` of the current epoch: inputs, labels and, of packed texts, weights."""
        inputs, labels, weights = super().__getitem__(index)
        if not self.has_labels:
            return (inputs,)
        return (inputs, labels, weights) if self.packing else (inputs, labels)

    @property
    def longest(self) -> int:
        """The greatest length of a row."""
        batches = self.batches
        return batches.row_length if self.packing else batches.buckets[-1]

    @property
    def greatest_token(self) -> int:
        """The greatest token id of the texts."""
        return int(self.encoded.token_ids.max(initial=0))

    def bind_to(self, model: Any) -> None:
        """Checks that a model can read these batches."""
        super().bind_to(model)
        if not (self.reads_special_tokens or model.reads_any_tokenizer):
            raise InputError(
                f"the tokenizer has no [CLS] and [SEP], between which a {type(model).__name__} reads a text: give the "
                "model's own tokenizer, or one of kerasllm.train_wordpiece"
            )
        if not self.has_labels:
            raise InputError(f"this {type(self).__name__} has no labels: it is for predict alone")

    def in_order(self) -> TextData:
        """Returns the same texts for `predict`, padded, in their own order and without labels."""
        if not self.packing and not self.shuffle:
            return self
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        settings: dict[str, Any] = {"shuffle": False, "keep_order": True, "fill": False}
        batches = ClassificationBatches(self.encoded, None, batch_size=self.batch_size, **settings)
        TextData.__init__(found, batches, shuffle=False)
        found.packing = found.has_labels = False
        return found


class TextClassificationData(_LabelledTexts):
    """Texts, or pairs of texts, with their classes: a data set for `fit`, `evaluate` and `predict`.

    Each epoch has every text once, in a new order that depends on the seed and the epoch alone. Texts are padded to
    one of a few lengths, or packed.

    Labels that are names get the class ids of the model: `fit` and `evaluate` of a `BertClassifier` look each name
    up in its `label_names`, and a model without names takes those of the data. For any other Keras model, the ids are
    the places in `label_names` (of this data set).

    Args:
        texts: a list of texts, or of pairs of texts.
        labels: a class name or a class id for each text; with `multi_label`, a list of names or ids for each, or
            indicators (texts, classes) of 0 and 1. None for `predict`.
        tokenizer: the model's tokenizer, of the `tokenizers` library (`kerasllm.load_tokenizer`).
        batch_size: number of texts in a batch.
        sequence_length: the most tokens of a text or pair, with special tokens; longer ones are cut, with a warning.
            By default 128, or fewer if the tokenizer was saved with a model of fewer positions.
        label_names: the names of all classes in the order of their ids. By default the names that occur, whole
            numbers by value and others in alphabetical order.
        shuffle: whether each epoch has a new order; otherwise the texts keep their own.
        seed: seed of the order.
        packing: whether several texts share a row, without seeing one another; the items then have weights.
        multi_label: whether a text may have several classes, or none.

    An item is (inputs, labels): a dict of `token_ids`, `segment_ids` and `padding_mask`, int32 (batch, length), and
    int32 (batch,) or, with `multi_label`, float32 (batch, classes). The last batch of an epoch may be smaller.

    Raises:
        InputError: a text or a label is none, or there are not as many labels as texts; the message has the index.
    """

    wants = "a classifier, such as BertClassifier"

    def __init__(
        self,
        texts: Any,
        labels: Any = None,
        *,
        tokenizer: Any,
        batch_size: int = 32,
        sequence_length: int | None = None,
        label_names: Sequence[str] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        packing: bool = False,
        multi_label: bool = False,
    ) -> None:
        found = read_texts(texts)
        self.multi_label = multi_label
        self._given_names = check_names(label_names)
        self.label_names = self._given_names
        self._values: Any = None
        self._width: int | None = None
        if labels is not None:
            known = None if label_names is None else len(label_names)
            if multi_label:
                self._values, self._width = read_label_lists(labels, known)
            else:
                self._values = read_labels(labels)
            check_count(found, self._values)
            flat: list[Label] = (
                [label for row in self._values for label in row] if multi_label else self._values
            )
            self._named = any(isinstance(label, str) for label in flat)
            if label_names is None and self._named:
                self.label_names = sorted_names(map(str, flat))
            largest = max((label for label in flat if isinstance(label, int)), default=0)
            num_classes = len(self.label_names) if self.label_names else self._width or largest + 1
            self.num_classes = num_classes
            self._check_width(num_classes, "label_names has")
        super().__init__(
            found,
            None if labels is None else self._ids(self.label_names, self.num_classes, "label_names"),
            tokenizer=tokenizer,
            batch_size=batch_size,
            sequence_length=sequence_length,
            shuffle=shuffle,
            seed=seed,
            packing=packing,
        )

    def _ids(self, names: Sequence[str] | None, num_classes: int, whose: str) -> np.ndarray:
        return (indicators if self.multi_label else class_ids)(self._values, names, num_classes, whose)

    def _check_width(self, num_classes: int, who_has: str) -> None:
        if self._width not in (None, num_classes):
            raise InputError(
                f"labels are indicators of {self._width} classes, {who_has} {num_classes}: give a column for each"
            )

    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm is a classifier."""
        return hasattr(model, "num_classes")

    def bind_to(self, model: Any) -> None:
        """Gives the labels the class ids of a model, by name; see the class.

        Raises:
            InputError: the names contradict the model's, a label is of no class of it, or the model cannot read the
                batches.
        """
        super().bind_to(model)
        if getattr(model, "multi_label", False) != self.multi_label:
            given, other = (f"multi_label={value}" for value in (self.multi_label, not self.multi_label))
            raise InputError(f"this {type(self).__name__} has {given}, the model {other}: make both alike")
        theirs = getattr(model, "label_names", None)
        if self._named:
            check_names(theirs)
        if theirs is None and self._named:
            if len(self.label_names or ()) != model.num_classes:
                raise InputError(
                    f"the labels have {len(self.label_names or ())} names, the model {model.num_classes} classes: "
                    "make the model with label_names"
                )
            model.label_names = theirs = self.label_names
        if self._given_names is not None and theirs is not None and self._given_names != tuple(theirs):
            raise InputError(
                f"label_names is {list(self._given_names)}, the model's are {list(theirs)}: give the same, in the same "
                "order, or leave label_names out here"
            )
        self._check_width(model.num_classes, "the model has")
        labels = self._ids(theirs, model.num_classes, "the model's label_names")
        self.label_names, self.batches.labels = theirs, labels
        self.batches._last = None


class TextRegressionData(_LabelledTexts):
    """Texts, or pairs of texts, with a number each: a data set for `fit`, `evaluate` and `predict`.

    Args:
        texts: a list of texts, or of pairs of texts.
        labels: a number for each text; None for `predict`.
        tokenizer, batch_size, sequence_length, shuffle, seed, packing: as for `TextClassificationData`.

    An item is (inputs, labels) as in `TextClassificationData`, with labels float32 (batch,).

    Raises:
        InputError: a text is none, a label is no finite number, or there are not as many labels as texts.
    """

    wants = "a model that predicts a number, such as BertRegressor"

    def __init__(
        self,
        texts: Any,
        labels: Any = None,
        *,
        tokenizer: Any,
        batch_size: int = 32,
        sequence_length: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        packing: bool = False,
    ) -> None:
        found = read_texts(texts)
        numbers = None if labels is None else read_numbers(labels)
        if numbers is not None:
            check_count(found, numbers)
        super().__init__(
            found,
            numbers,
            tokenizer=tokenizer,
            batch_size=batch_size,
            sequence_length=sequence_length,
            shuffle=shuffle,
            seed=seed,
            packing=packing,
        )

    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm predicts a number."""
        return hasattr(model, "regressor")
