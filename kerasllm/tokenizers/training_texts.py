"""The texts that a tokenizer is trained on, each checked when it is read."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from kerasllm.errors import InputError, short


def rows_of(values: Any) -> Any:
    """Returns the rows of an array or a table as a list, and a column of Arrow as one; anything else as it is.

    A table of pandas would be iterated over by the names of its columns. Rows of a single column are its values.
    """
    if hasattr(values, "to_pylist"):
        return values.to_pylist()
    shape: tuple[int, ...] = getattr(values, "shape", ())
    if len(shape) != 2:
        return values
    rows = np.asarray(values).tolist()
    return [value for (value,) in rows] if shape[1] == 1 else rows


def training_texts(texts: Any) -> Iterator[str]:
    """Returns an iterator over texts.

    Args:
        texts: any iterable of texts, but not a single text, whose characters would be taken for texts.

    Raises:
        InputError: `texts` is no such iterable or, when it is read, one of them is no text.
    """
    if isinstance(texts, str | bytes | dict) or not isinstance(texts, Iterable):
        raise InputError(f"texts is {short(texts)}, it must be a list of texts")
    return _checked(rows_of(texts))


def _checked(texts: Iterable[Any]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}] is {short(text)} ({type(text).__name__}), it must be a text")
        yield text
