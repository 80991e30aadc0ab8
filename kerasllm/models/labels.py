"""Checks of class names and class weights that a model is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kerasllm.errors import InputError, short


def class_names(label_names: Iterable[str] | None) -> tuple[str, ...] | None:
    """Returns the names of the classes as a tuple, or None without names.

    Raises:
        InputError: they are a single text, whose letters would be taken for names, or one is no text.
    """
    if label_names is None:
        return None
    if isinstance(label_names, str) or not isinstance(label_names, Iterable):
        raise InputError(
            f"label_names is {short(label_names)}, it must be a list of names, one for each class"
        )
    names = tuple(label_names)
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"label_names[{index}] is {short(name)}, it must be a name, which is text")
    return names or None


def check_class_weight(model: Any, class_weight: Any) -> None:
    """Checks the class weights that `fit` is given: Keras takes 1 for each class that they do not hold.

    Args:
        model: a `LanguageModel`.
        class_weight: a dict from class id to weight, or None.

    Raises:
        InputError: the model does not predict one class for each row, or a key is no class id of it.
    """
    if class_weight is None:
        return
    if tuple(model.label_counts) != ("classes",):
        raise InputError(
            f"class_weight is for models that predict one class for each row, {type(model).__name__} is none: "
            "give sample_weight instead"
        )
    if not isinstance(class_weight, Mapping):
        raise InputError(f"class_weight is {short(class_weight)}, it must be a dict from class id to weight")
    count = model.label_counts["classes"]
    for key in class_weight:
        if not isinstance(key, int | np.integer) or not 0 <= key < count:
            names = getattr(model, "label_names", None) or ()
            mend = f"; the id of {key!r} is {names.index(key)}" if key in names else ""
            raise InputError(f"class_weight holds {key!r}, it must hold class ids, 0 to {count - 1}{mend}")
