"""Reading of texts that belong together: pairs, triplets, graded pairs, or single texts that are their own pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasllm.data.sources.label_values import parse_number
from kerasllm.data.sources.labelled import Columns, Texts, is_index, read_texts, split_columns
from kerasllm.data.sources.tables import Column, Table, open_table
from kerasllm.errors import InputError, short

_DEFAULTS = (
    ("anchor", "positive", "negative"),
    ("anchor", "positive"),
    ("sentence1", "sentence2"),
    ("query", "positive", "negative"),
    ("query", "positive"),
    ("question", "answer"),
    ("query", "text"),
    ("text",),
    ("sentence",),
)


@dataclass(frozen=True, eq=False)
class TextGroups:
    """Texts that belong together.

    Args:
        texts: tuples of an anchor, its positive and, if there are any, hard negatives; or of one text.
        lines: int64, the line number of each tuple (the row number in Parquet and on the hub).
        source: the file or data set that they come from.
        scores: float32, the score of each pair; None if the pairs are not graded.
    """

    texts: Texts
    lines: np.ndarray
    source: str
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns the number of pairs, triplets or texts."""
        return len(self.texts)

    def select(self, chosen: np.ndarray) -> TextGroups:
        """Returns some of the groups, by their indices."""
        scores = None if self.scores is None else self.scores[chosen]
        texts = [self.texts[index] for index in chosen]
        return TextGroups(texts, self.lines[chosen], self.source, scores)

    @property
    def width(self) -> int:
        """The number of texts that belong together."""
        return len(self.texts[0])


def read_groups(
    source: str, text_columns: Columns = None, label_column: str | int | None = None, *, split: str = "train"
) -> TextGroups:
    """Reads pairs, triplets, graded pairs or single texts.

    Args:
        source: a .tsv, .csv, .jsonl (each also as .gz) or .parquet file, or `hub:ID`; without `text_columns` also a
            `.txt` file with one text a line.
        text_columns: one column for single texts, two for pairs, three or more for pairs with hard negatives; names,
            or indexes if a TSV or CSV has no header. The default is "anchor,positive,negative" and the like.
        label_column: the column of the scores of graded pairs; None if the pairs are not graded.
        split: the split of a dataset on the hub, if the source names none.

    Raises:
        InputError: the file, a column, a text or a score is invalid; the message names file and line.
    """
    source = str(source)
    if text_columns is None and label_column is None and source.lower().removesuffix(".gz").endswith(".txt"):
        plain = read_texts(source)
        return TextGroups(plain.texts, plain.lines, source)
    names = split_columns(text_columns)
    given = [*names, str(label_column)] if label_column is not None else names
    by_index = any(map(is_index, given))
    if by_index and not all(map(is_index, given)):
        raise InputError(
            f"text_columns and label_column are {', '.join(map(repr, given))}: give all by index or all by name"
        )
    table = open_table(source, by_index=by_index, split=split)
    if not names:
        names = _default(table)
    if len(set(names)) < len(names) or str(label_column) in names:
        raise InputError(f"a column is named twice in {', '.join(map(repr, given or names))}")
    if label_column is not None and len(names) != 2:
        raise InputError(
            f"label_column is for graded pairs: text_columns must name two columns, not {len(names)}"
        )
    columns = [Column(name, "text") for name in names]
    columns += [] if label_column is None else [Column(str(label_column), "label")]
    texts: Texts = []
    lines, scores = [], []
    for line, row in table.rows(columns):
        texts.append(_texts(table, line, row[: len(names)], names))
        lines.append(line)
        if label_column is not None:
            scores.append(_score(table, line, row[-1]))
    if not texts:
        raise InputError(f"{source}: holds no rows{' below its header' if table.can_lack_header else ''}")
    values = np.array(scores, np.float32) if scores else None
    if values is not None and np.ptp(values) == 0:
        raise InputError(
            f"{source}: all pairs have the score {values[0]:g}: is --label_column the right one?"
        )
    return TextGroups(texts, np.array(lines, np.int64), source, values)


def _default(table: Table) -> list[str]:
    header = table.header or ()
    for names in _DEFAULTS:
        if all(name in header for name in names):
            return list(names)
    there = ", ".join(map(repr, header[:20])) or "without a header: give indexes, as in 0,1"
    raise InputError(
        f"{table.source}: which columns belong together? Give text_columns. Its columns: {there}"
    )


def _texts(table: Table, line: int, values: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    for value, name in zip(values, names, strict=True):
        if not isinstance(value, str) or not value.strip():
            found = "is empty" if isinstance(value, str) else f"holds {short(value)}, not text"
            raise InputError(f"{table.place(line)}: column {name!r} {found}; mend or remove the row")
    return tuple(values)


def _score(table: Table, line: int, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number: float | None = float(value)
    else:
        number = parse_number(value) if isinstance(value, str) else None
    if number is None or not np.isfinite(np.float32(number)):
        raise InputError(f"{table.place(line)}: the score is {short(value)}, it must be a number")
    return number
