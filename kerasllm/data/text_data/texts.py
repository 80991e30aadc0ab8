"""Checks of texts that are given as Python objects, with the index of the one that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kerasllm.errors import InputError, short
from kerasllm.tokenizers.training_texts import rows_of

_HALF_PAIR = re.compile("[\ud800-\udfff]")

UNORDERED = (str, bytes, dict, set, frozenset)
"""What is no list of texts or labels although it can be iterated over: the two would not keep together."""


def read_texts(texts: Any, name: str = "texts") -> list[tuple[str, ...]]:
    """Returns texts and pairs of texts as tuples of one text or of two.

    Args:
        texts: a list, array, column or other iterable of texts, or of pairs of texts (tuples or lists); or an array
            or a table of two columns, whose rows are pairs.
        name: the name of the argument, for messages.

    Raises:
        InputError: there are no texts, one is no text, or texts and pairs are mixed.
    """
    found = list(each_text(texts, name))
    if not found:
        raise InputError(f"{name} is empty: give at least one text")
    for index, text in enumerate(found):
        if len(text) != len(found[0]):
            kinds = {1: "one text", 2: "a pair"}
            raise InputError(f"{name}[{index}] is {kinds[len(text)]}, {name}[0] is {kinds[len(found[0])]}")
    return found


def each_text(texts: Any, name: str = "texts") -> Iterator[tuple[str, ...]]:
    """Yields texts and pairs of texts as tuples, each checked when it is read.

    Args:
        texts: as for `read_texts`.
        name: the name of the argument, for messages.

    Raises:
        InputError: a text is no text.
    """
    if isinstance(texts, UNORDERED) or not isinstance(texts, Iterable):
        raise InputError(f"{name} is {short(texts)}, it must be a list of texts")
    for index, text in enumerate(rows_of(texts)):
        pair = tuple(text) if isinstance(text, list | tuple) else (text,)
        if len(pair) not in (1, 2) or not all(isinstance(part, str) for part in pair):
            raise InputError(
                f"{name}[{index}] is {short(text)} ({type(text).__name__}), it must be a text or a pair of texts"
            )
        half = next(filter(None, map(_HALF_PAIR.search, pair)), None)
        if half is not None:
            raise InputError(
                f"{name}[{index}] holds half of a surrogate pair (U+{ord(half[0]):04X}), which is no character"
            )
        yield tuple(str(part) for part in pair)


def read_single_texts(texts: Any, name: str = "texts") -> list[str]:
    """Returns a list of texts, none of which is a pair.

    Args:
        texts: as for `read_texts`.
        name: the name of the argument, for messages.

    Raises:
        InputError: there are no texts, or one is no text.
    """
    found = read_texts(texts, name)
    if len(found[0]) == 2:
        raise InputError(f"{name}[0] is a pair, it must be one text")
    return [text for (text,) in found]


def check_tokenizer(tokenizer: Any) -> None:
    """Checks that an argument is a tokenizer of the `tokenizers` library.

    Raises:
        InputError: it is a path, or another library's tokenizer.
    """
    if isinstance(tokenizer, str | Path):
        raise InputError(
            f"tokenizer is {short(str(tokenizer))}, it must be a tokenizer: kerasllm.load_tokenizer reads it from there"
        )
    if not hasattr(tokenizer, "token_to_id"):
        raise InputError(
            f"tokenizer is a {type(tokenizer).__name__}, it must be one that kerasllm.load_tokenizer returns"
        )


def check_count(texts: Sequence[Any], labels: Any) -> None:
    """Checks that there is one label for each text.

    Raises:
        InputError: there are more or fewer.
    """
    if len(labels) != len(texts):
        raise InputError(
            f"there are {len(texts):,} texts and {len(labels):,} labels: give one label for each text"
        )
