"""Labels that are given as Python objects: class names, class ids, lists of either, and numbers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from kerasllm.data.text_data.texts import UNORDERED
from kerasllm.errors import InputError, short
from kerasllm.tokenizers.training_texts import rows_of

Label = str | int


def read_labels(labels: Any) -> list[Label]:
    """Returns one class name or class id for each text.

    Args:
        labels: a list or array of names, or of ids from 0.

    Raises:
        InputError: a label is neither, or names and ids are mixed; the message has its index.
    """
    found = [_label(value, f"labels[{index}]") for index, value in enumerate(_items(labels))]
    _refuse_mixture([[label] for label in found])
    return found


def read_label_lists(labels: Any, num_classes: int | None) -> tuple[list[list[Label]], int | None]:
    """Returns the class names or ids of each text, which may be none, and the number of classes of indicators.

    Args:
        labels: a list of lists of names or ids; or indicators, an array (texts, classes) of 0 and 1 or lists of such
            rows.
        num_classes: the number of classes if it is known, for rows of indicators.

    Raises:
        InputError: a label is neither, or it cannot be told whether lists are ids or indicators.
    """
    items = _items(labels)
    is_array = len(getattr(labels, "shape", ())) == 2
    rows: list[list[Any]] = []
    for index, item in enumerate(items):
        if isinstance(item, str) or not isinstance(item, Iterable):
            raise InputError(
                f"labels[{index}] is {short(item)}, with multi_label it must be a list of labels"
            )
        rows.append(list(item))
    if is_array or _are_indicators(rows, num_classes):
        for index, row in enumerate(rows):
            if any(value not in (0, 1) for value in row):
                raise InputError(f"labels[{index}] is {short(row)}, an indicator must be 0 or 1")
        ids: list[list[Label]] = [[number for number, value in enumerate(row) if value] for row in rows]
        return ids, len(rows[0]) if rows else None
    found = [[_label(value, f"labels[{index}]") for value in row] for index, row in enumerate(rows)]
    _refuse_mixture(found)
    return found, None


def read_numbers(labels: Any) -> np.ndarray:
    """Returns one number for each text, float32 (texts,).

    Raises:
        InputError: a label is no finite number; the message has its index.
    """
    found = []
    for index, value in enumerate(_items(labels)):
        number = _plain(value)
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 3e38:
            raise InputError(f"labels[{index}] is {short(number)}, it must be a finite number")
        found.append(float(number))
    return np.array(found, np.float32)


def sorted_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the different names, whole numbers by value, other names in alphabetical order."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def check_names(names: Any) -> tuple[str, ...] | None:
    """Returns the names of all classes as a tuple, or None.

    Raises:
        InputError: they are no list of different texts.
    """
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"label_names is {short(names)}, it must be a list of names, one for each class")
    found = tuple(names)
    for name in found:
        if found.count(name) > 1:
            raise InputError(f"label_names holds {name!r} twice")
    return found


def class_ids(
    labels: Sequence[Label], names: Sequence[str] | None, num_classes: int, whose: str
) -> np.ndarray:
    """Returns labels as class ids, int32 (texts,).

    Args:
        labels: names or ids.
        names: the names of the classes in order; None if there are none, and labels are ids.
        num_classes: the number of classes.
        whose: what has these classes, for messages: "the model's label_names".

    Raises:
        InputError: a label is of no class; the message has its index.
    """
    ids = {name: number for number, name in enumerate(names or ())}
    return np.array(
        [_id(label, f"labels[{i}]", ids, num_classes, whose) for i, label in enumerate(labels)], np.int32
    )


def indicators(
    labels: Sequence[Sequence[Label]], names: Sequence[str] | None, num_classes: int, whose: str
) -> np.ndarray:
    """Returns lists of labels as indicators of 0 and 1, float32 (texts, classes); see `class_ids`."""
    ids = {name: number for number, name in enumerate(names or ())}
    found = np.zeros((len(labels), num_classes), np.float32)
    for index, row in enumerate(labels):
        found[index, [_id(label, f"labels[{index}]", ids, num_classes, whose) for label in row]] = 1
    return found


def _id(label: Label, place: str, ids: dict[str, int], num_classes: int, whose: str) -> int:
    if isinstance(label, str):
        if label in ids:
            return ids[label]
        shown = "[" + ", ".join(map(repr, list(ids)[:20])) + (", …]" if len(ids) > 20 else "]")
        near = difflib.get_close_matches(label, ids, n=1)
        mend = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{place} is {label!r}, which is not one of {whose} {shown}{mend}")
    if not 0 <= label < num_classes:
        raise InputError(f"{place} is {label}, the ids of {num_classes} classes are 0 to {num_classes - 1}")
    return label


def _items(labels: Any) -> list[Any]:
    if isinstance(labels, UNORDERED) or not isinstance(labels, Iterable):
        raise InputError(f"labels is {short(labels)}, it must be a list of labels, one for each text")
    return list(rows_of(labels))


def _plain(value: Any) -> Any:
    """Returns a number of NumPy or of a backend as Python's own; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _label(value: Any, place: str) -> Label:
    label = _plain(value)
    if isinstance(label, str):
        return str(label)
    if isinstance(label, Integral):
        return int(label)
    if isinstance(label, float) and math.isfinite(label):
        if float(label).is_integer():
            return int(label)
        raise InputError(f"{place} is {label}, which is no class: numbers are for TextRegressionData")
    mend = (
        "; several labels a text need multi_label=True"
        if isinstance(value, list | tuple | np.ndarray)
        else ""
    )
    raise InputError(f"{place} is {short(value)}, it must be a class name or a class id{mend}")


def _refuse_mixture(labels: Sequence[Sequence[Label]]) -> None:
    kinds = {type(label) for row in labels for label in row}
    if len(kinds) > 1:
        raise InputError("labels holds both names and ids: give all labels by name, or all by id")


def _are_indicators(rows: Sequence[Sequence[Any]], num_classes: int | None) -> bool:
    """Returns whether rows of equal length hold 0 and 1 for each class, and are no lists of ids."""
    sizes = {len(row) for row in rows}
    if len(sizes) != 1 or sizes == {0}:
        return False
    values = [_plain(value) for row in rows for value in row]
    if not all(isinstance(value, Real) and value in (0, 1) for value in values):
        return False
    if any(isinstance(value, float | bool) for value in values) or any(
        len(set(row)) < len(row) for row in rows
    ):
        return num_classes is None or sizes == {num_classes}
    if sizes == {2}:
        raise InputError(
            "labels holds rows of 0 and 1, which could be ids or indicators: give label_names and names, or an array "
            "of indicators"
        )
    return False
