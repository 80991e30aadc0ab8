"""Reading of texts with labels, for fine-tuning, and of texts without labels, for prediction.

Training would not notice a wrong label column, a header that is read as an example, or a misspelled label. So mistakes
that can be recognized in the data are reported here, with the line.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kerasllm.data.sources.label_values import (
    classification_labels,
    multi_label_indicators,
    parse_number,
    regression_labels,
    task_of,
)
from kerasllm.data.sources.lines import text_lines
from kerasllm.data.sources.tables import Column, Table, open_table
from kerasllm.errors import InputError

Task = Literal["classification", "regression"]
Texts = list[tuple[str, ...]]
Columns = str | int | Sequence[str | int] | None

_DEFAULT_TEXTS = (("text",), ("sentence",), ("sentence1", "sentence2"))
_DEFAULT_LABEL = "label"
_HEADER_WORDS = frozenset(
    {"label", "labels", "class", "category", "target", "quality", "sentiment", "score", "y"}
)
_TEXT_WORDS = frozenset({"text", "texts", "sentence", "sentence1", "review", "message", "content"})


@dataclass(frozen=True, eq=False)
class UnlabelledTexts:
    """Texts without labels, for prediction.

    Args:
        texts: tuples of one text, or of the two texts of a pair.
        lines: int64, the line number of each text (the row number in Parquet and on the hub).
        source: the file or data set that the texts come from.
    """

    texts: Texts
    lines: np.ndarray
    source: str

    def __len__(self) -> int:
        """Returns the number of texts or pairs."""
        return len(self.texts)

    def place(self, record: int) -> str:
        """Returns the file and line of a record, for messages."""
        return f"{self.source}:{self.lines[record]}"


@dataclass(frozen=True, eq=False)
class LabelledTexts(UnlabelledTexts):
    """Texts with labels.

    Args:
        texts: tuples of one text, or of the two texts of a pair.
        lines: int64, the line number of each text (the row number in Parquet and on the hub).
        source: the file or data set that the texts come from.
        labels: int32 indexes into `label_names`, or float32 numbers for regression; of several labels a text, float32
            (texts, classes) of 0 and 1.
        label_names: the names of the classes; None for regression.
        task: the task that the labels belong to.
    """

    labels: np.ndarray
    label_names: tuple[str, ...] | None
    task: Task

    def select(self, records: np.ndarray) -> "LabelledTexts":
        """Returns the records with these indices, in this order."""
        texts = [self.texts[record] for record in records.tolist()]
        return replace(self, texts=texts, lines=self.lines[records], labels=self.labels[records])


def read_labelled(
    source: str,
    text_columns: Columns = None,
    label_column: str | int | None = None,
    *,
    task: Literal["auto", "classification", "regression"] = "auto",
    label_names: Sequence[str] | None = None,
    split: str = "train",
    separator: str | None = None,
) -> LabelledTexts:
    """Reads texts and labels; rows are streamed, and only texts and labels are kept in memory.

    Blank lines are skipped. One text of a pair may be empty, but not all texts of a row.

    Args:
        source: a .tsv (tabs, no quoting), .csv, .jsonl (each also as .gz) or .parquet file, or
            `hub:glue/mrpc`, `hub:OWNER/NAME/CONFIG#SPLIT`. A file with another suffix is a TSV if its first
            line has a tab.
        text_columns: one column or two, such as `"sentence"`, `"3,4"` or a list. Indexes mean that a TSV or CSV
            has no header. The default is "text", "sentence" or "sentence1,sentence2", whichever exists.
        label_column: the name or index of the label column, "label" by default.
        task: the task; "auto" means regression if all labels are numbers and not all are whole.
        label_names: the class names of the training data, for validation data, which must have no others. The
            default is the names that the data set declares, or else the sorted labels that occur.
        split: the split of a dataset on the hub, if its source names none.
        separator: the text between the labels of one row, if a text may have several labels or none; a cell may also
            hold a list.

    Raises:
        InputError: the file, a column or a label is invalid; the message names file and line.

    Warns:
        InputWarning: a label of training data seems misspelled; the message names file and line.
    """
    source = str(source)
    if task not in ("auto", "classification", "regression"):
        raise InputError(f"task {task!r} is not one of ['auto', 'classification', 'regression']")
    if label_names is not None and task == "regression":
        raise InputError("label_names are given, but regression has none")
    label = _DEFAULT_LABEL if label_column is None else str(label_column).strip()
    table, columns = _open(source, text_columns, label, split)
    texts: Texts = []
    lines: list[int] = []
    values: list[str] = []
    several: list[list[str]] = []
    names: tuple[str, ...] | None
    declared = table.class_names.get(label)
    for line, row in table.rows(columns):
        texts.append(_texts(table, line, row[:-1], columns))
        if separator is None:
            values.append(_label(table, line, row[-1], label, declared))
        else:
            several.append(_labels(table, line, row[-1], label, declared, separator))
        lines.append(line)
    if not texts:
        raise InputError(f"{source}: holds no rows{' below its header' if table.can_lack_header else ''}")
    known = tuple(map(str, label_names)) if label_names is not None else declared
    if separator is not None:
        indicators, names = multi_label_indicators(table, lines, several, known)
        return LabelledTexts(texts, np.array(lines, np.int64), source, indicators, names, "classification")
    _refuse_header(table, columns, texts, lines, values)
    if label_names is not None or (declared is not None and task == "auto"):
        task = "classification"
    found: Task = task_of(table, lines, values) if task == "auto" else task
    names = None
    if found == "regression":
        labels = regression_labels(table, lines, values)
    else:
        labels, names = classification_labels(table, lines, values, known, must_vary=label_names is None)
    return LabelledTexts(texts, np.array(lines, np.int64), source, labels, names, found)


def read_texts(source: str, text_columns: Columns = None, *, split: str = "test") -> UnlabelledTexts:
    """Reads texts without labels, for prediction.

    Args:
        source: as for `read_labelled`; or, without `text_columns`, a `.txt` file (also `.gz`) with one text per line.
        text_columns: as for `read_labelled`.
        split: the split of a dataset on the hub, if the source names none.

    Raises:
        InputError: the file or a column is invalid; the message names file and line.
    """
    source = str(source)
    if text_columns is None and source.lower().removesuffix(".gz").endswith(".txt"):
        rows = list(_plain_texts(source))
        if not rows:
            raise InputError(f"{source}: the file is empty")
        return UnlabelledTexts(
            [texts for _, texts in rows], np.array([line for line, _ in rows], np.int64), source
        )
    table, columns = _open(source, text_columns, None, split)
    texts, lines = [], []
    for line, row in table.rows(columns):
        texts.append(_texts(table, line, row, columns))
        lines.append(line)
    if not texts:
        raise InputError(f"{source}: holds no rows{' below its header' if table.can_lack_header else ''}")
    return UnlabelledTexts(texts, np.array(lines, np.int64), source)


def _plain_texts(source: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the number and the text of each line."""
    blank = 0  # the first blank line; no text may follow it, as predictions are numbered by line
    for number, line in text_lines(source):
        line = line.rstrip("\r\n")
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise InputError(f"{source}:{blank}: is blank; each line must hold a text: remove it")
        yield number, (line,)


def _open(source: str, text_columns: Columns, label: str | None, split: str) -> tuple[Table, list[Column]]:
    """Returns the table and the columns to read, the label's last."""
    texts = split_columns(text_columns)
    given = [*texts, label] if label is not None else texts
    by_index = any(is_index(name) for name in given)
    table = open_table(source, by_index=by_index, split=split)
    if table.header is None:
        for name, option in [*((name, "text_columns") for name in texts), (label, "label_column")]:
            if name is not None and not is_index(name):
                other = next(name for name in given if is_index(name))
                raise InputError(
                    f"{option} is {name!r}, a name, but {other} is an index, which means that {source} has "
                    "no header: give all columns by index, or all by name"
                )
        if not texts:
            raise InputError(f"label_column {label} is an index: give text_columns by index, too, from 0")
    else:
        if isinstance(text_columns, str) and text_columns in table.header:
            texts = [text_columns]  # a name may hold a comma
        texts = texts or _default_texts(table)
    if len(texts) > 2:
        raise InputError(
            f"text_columns names {len(texts)} columns, a model takes one text or a pair: {texts}"
        )
    columns = [Column(name, "text") for name in texts]
    columns += [] if label is None else [Column(label, "label")]
    for column in columns:
        table.require(column)
    if len(set(texts)) < len(texts):
        raise InputError(f"text_columns names {texts[0]!r} twice; a pair is two columns")
    if label in texts:
        raise InputError(f"column {label!r} is both label_column and one of text_columns")
    return table, columns


def split_columns(columns: Columns) -> list[str]:
    """Returns the names or indexes of columns that are given as text or as a list.

    Raises:
        InputError: a name is empty.
    """
    if columns is None:
        return []
    if isinstance(columns, str | int):
        columns = str(columns).split(",")
    names = [str(name).strip() for name in columns]
    if not all(names):
        raise InputError(
            f"text_columns {','.join(names)!r} has an empty name; write one column or two, as in 3,4"
        )
    return names


def is_index(name: str) -> bool:
    """Returns whether the name of a column is an index."""
    return name.isascii() and name.isdigit()


def _default_texts(table: Table) -> list[str]:
    header = table.header or ()
    for names in _DEFAULT_TEXTS:
        if all(name in header for name in names):
            return list(names)
    there = ", ".join(map(repr, header[:20]))
    mend = "give text_columns"
    if table.can_lack_header:
        mend += " (by index if the file has no header, as in text_columns 0, label_column 1)"
    raise InputError(
        f"{table.source}: none of the columns 'text', 'sentence' or 'sentence1,sentence2': {mend}. "
        f"Its columns: {there}"
    )


def _texts(table: Table, line: int, values: Sequence[Any], columns: Sequence[Column]) -> tuple[str, ...]:
    for value, column in zip(values, columns, strict=False):
        if not isinstance(value, str):
            kind = "null" if value is None else type(value).__name__
            raise InputError(f"{table.place(line)}: column {column.name!r} holds {kind}, not text")
    if not any(value.strip() for value in values):
        what = "the text is" if len(values) == 1 else "both texts are"
        raise InputError(f"{table.place(line)}: {what} empty; remove the row")
    return tuple(values)


def _label(table: Table, line: int, value: Any, column: str, declared: Sequence[str] | None) -> str:
    """Returns a label as text; `declared` are the class names if the column holds class ids, else None."""
    if declared is not None and isinstance(value, int):
        if not 0 <= value < len(declared):
            meaning = " (-1 stands for no label: a test split?)" if value == -1 else ""
            raise InputError(
                f"{table.place(line)}: label {value} is not an id of the {len(declared)} classes{meaning}"
            )
        return declared[value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        raise InputError(
            f"{table.place(line)}: column {column!r} (label) holds NaN, a missing value; mend or remove the row"
        )
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or isinstance(value, list | dict):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{table.place(line)}: column {column!r} (label) holds {kind}, not a label")
    label = str(value).strip("\ufeff").strip()
    if not label:
        raise InputError(f"{table.place(line)}: the label is empty; mend or remove the row")
    return label


def _labels(
    table: Table, line: int, value: Any, column: str, declared: Sequence[str] | None, separator: str
) -> list[str]:
    """Returns the labels of one row, which may be none: those of a list, or the parts of a text."""
    if isinstance(value, str):
        value = [part for part in value.split(separator) if part.strip()]
    elif value is None or not isinstance(value, list):
        value = [] if value is None else [value]
    return [_label(table, line, each, column, declared) for each in value]


def _refuse_header(
    table: Table, columns: Sequence[Column], texts: Texts, lines: Sequence[int], values: Sequence[str]
) -> None:
    """Refuses a line that seems to be a header, though it was read as an example."""
    if table.header is not None or len(values) < 2:
        return
    for line, text, value in zip(lines[1:], texts[1:], values[1:], strict=True):
        if value.casefold() in _HEADER_WORDS and text[0].strip("\ufeff").casefold() in _TEXT_WORDS:
            raise InputError(
                f"{table.place(line)}: text {text[0]!r} and label {value!r} look like a header; were files put one "
                "behind the other? Remove the line"
            )
    first, others = values[0], Counter(values[1:])
    if first in others:
        return
    numbers = parse_number(first) is None and all(parse_number(value) is not None for value in others)
    words = first.casefold() in _HEADER_WORDS and not difflib.get_close_matches(
        first, others, n=1, cutoff=0.9
    )
    if not numbers and not words:
        return
    names = [table.first_fields[int(column.name)] for column in columns]
    raise InputError(
        f"{table.place(lines[0])}: label {first!r} occurs in the first line only, which looks like a header: "
        f"give the columns by name, text_columns {','.join(names[:-1])!r} and label_column {names[-1]!r}"
    )
