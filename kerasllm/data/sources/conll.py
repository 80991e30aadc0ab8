"""Reading of sentences in CoNLL's form: a word per line with its tags in columns, a blank line between sentences.

Reference: Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419; for CoNLL-U,
https://universaldependencies.org/format.html.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError

_DOCUMENT = "-DOCSTART-"
_RANGE = re.compile(r"\d+[-.]\d+")  # CoNLL-U's ids of multi-word tokens, and of empty nodes
_CONLL_U_COLUMNS = 10
_COMMENT = re.compile(r"#(?:\s|$)")


class WordLine(NamedTuple):
    """A word with its tag.

    Args:
        line: the number of its line, from 1.
        word: the word.
        tag: the tag; None if tags are not read.
    """

    line: int
    word: str
    tag: str | None


def read_conll(source: str, token_column: int = 0, label_column: int | None = -1) -> Iterator[list[WordLine]]:
    """Yields the words of each sentence.

    Columns are separated by tabs if a line of the file has one, else by spaces. Lines that hold nothing but white
    space end a sentence, as do `-DOCSTART-` lines. A line that begins with `#` is a comment if it has another number of
    columns than the file, or if it is a sentence's first, a space follows the `#`, and no other line has the tag that
    it would have.

    Args:
        source: the file; compressed with gzip if its name ends in `.gz`.
        token_column: the column of the words, from 0; negative numbers count from the end.
        label_column: the column of the tags, likewise; None if there are no tags.

    Raises:
        InputError: the file cannot be read, has no words, or a line lacks a column; the message names the line.
    """
    lines = [(number, line.rstrip("\r\n")) for number, line in text_lines(source)]
    sure = [line for _, line in lines if line.strip() and not line.startswith(("#", _DOCUMENT))]
    separator = "\t" if any("\t" in line for line in sure) else None
    rows = [(number, _fields(line, separator)) for number, line in lines]
    words = [_fields(line, separator) for line in sure]
    widths = Counter(map(len, words))
    if not widths:
        raise InputError(f"{source}: holds no words")
    width = widths.most_common(1)[0][0]
    _check_columns(source, width, token_column, label_column)
    tag_column = -1 if label_column is None else label_column
    tags = {fields[tag_column].strip() for fields in words if len(fields) == width > 1}
    sentence: list[WordLine] = []
    for number, fields in rows:
        if not fields or fields[0].split()[:1] == [_DOCUMENT]:
            if sentence:
                yield sentence
            sentence = []
            continue
        is_word = len(fields) == width
        if fields[0].startswith("#") and not is_word:
            continue
        may_be_comment = is_word and width > 1 and not sentence and _COMMENT.match(fields[0])
        if may_be_comment and fields[tag_column].strip() not in tags:
            continue
        if width == _CONLL_U_COLUMNS and _RANGE.fullmatch(fields[0]):
            continue
        if not is_word:
            raise InputError(
                f"{source}:{number}: has {len(fields)} columns where most lines have {width}; "
                "a missing tag, or a separator within a word?"
            )
        word, tag = fields[token_column], None
        if label_column is not None:
            tag = fields[label_column].strip()
        if not word or tag == "":
            raise InputError(f"{source}:{number}: the {'tag' if word else 'word'} is empty; mend the line")
        sentence.append(WordLine(number, word, tag))
    if sentence:
        yield sentence


def _fields(line: str, separator: str | None) -> list[str]:
    """Returns the columns of a line, none if it is blank."""
    return line.split(separator) if line.strip() else []


def _check_columns(source: str, width: int, token_column: int, label_column: int | None) -> None:
    """Refuses columns that the file does not have."""
    for option, column in (("token_column", token_column), ("label_column", label_column)):
        if column is not None and not -width <= column < width:
            raise InputError(
                f"{source}: {option} is {column}, the file has {width} column{'s' * (width != 1)}, from 0"
            )
    if label_column is not None and token_column % width == label_column % width:
        raise InputError(f"{source}: token_column and label_column are the same column, {label_column}")
