"""Conversion of labels from text to class ids or numbers, and detection of the task from them."""

import difflib
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kerasllm.data.sources.tables import Table
from kerasllm.errors import InputError, InputWarning

_SHOWN = 20  # number of names in a message
_RARE = 2  # a label that occurs at most this often and resembles one 25 times as frequent seems misspelled
_FREQUENT = 25
_ALIKE = 0.8
_LARGEST = float(np.finfo(np.float32).max)


def parse_number(label: str) -> float | None:
    """Returns a label as a number, or None if it is none."""
    try:
        return float(label)
    except ValueError:
        return None


def task_of(
    table: Table, lines: Sequence[int], values: Sequence[str]
) -> Literal["classification", "regression"]:
    """Returns "regression" if every label is a number and at least one is not whole, else "classification".

    Args:
        table: the table, for messages.
        lines: the line number of each label.
        values: the labels as text.

    Raises:
        InputError: all but a few labels are fractions, or numbers are missing (`nan`) among numbers.
    """
    numbers = [parse_number(value) for value in values]
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    fractions = sum(not number.is_integer() for number in finite)
    if len(finite) == len(values):
        return "regression" if fractions else "classification"
    no_numbers = (i for i, number in enumerate(numbers) if number is None or not math.isfinite(number))
    odd = next(no_numbers)
    nearly_all = len(finite) >= 0.9 * len(values) and 2 * fractions >= len(finite)
    only_missing = bool(finite) and all(number is not None for number in numbers)
    if nearly_all or only_missing:
        raise InputError(
            f"{table.place(lines[odd])}: label {values[odd]!r} is not a finite number, though "
            f"{len(finite):,} of {len(values):,} labels are; mend it, or give task classification"
        )
    return "classification"


def regression_labels(table: Table, lines: Sequence[int], values: Sequence[str]) -> np.ndarray:
    """Returns the labels as float32 (rows,).

    Args:
        table: the table, for messages.
        lines: the line number of each label.
        values: the labels as text.

    Raises:
        InputError: a label is no finite number, or too large for float32.
    """
    numbers = np.zeros(len(values), np.float32)
    for i, value in enumerate(values):
        number = parse_number(value)
        if number is None or not math.isfinite(number) or abs(number) > _LARGEST:
            header = number is None and i == 0 and table.header is None and len(values) > 1
            mend = "; if this line is a header, give the columns by name" if header else ""
            raise InputError(f"{table.place(lines[i])}: label {value!r} is not a finite number{mend}")
        numbers[i] = number
    return numbers


def classification_labels(
    table: Table,
    lines: Sequence[int],
    values: Sequence[str],
    known: Sequence[str] | None,
    *,
    must_vary: bool,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the labels as int32 (rows,) and the names of the classes.

    Args:
        table: the table, for messages.
        lines: the line number of each label.
        values: the labels as text.
        known: the names of the classes in order; None uses the labels that occur, sorted by value if all are whole
            numbers, else alphabetically.
        must_vary: whether to refuse a single class, as in training.

    Raises:
        InputError: a label is not known, there is a single class, or no label occurs twice.

    Warns:
        InputWarning: a label seems misspelled.
    """
    counts = Counter(values)
    names = tuple(known) if known is not None else _sorted_names(counts)
    if known is None:
        _warn_of_misspelling(table, lines, values, counts)
    ids = {name: i for i, name in enumerate(names)}
    for line, value in zip(lines, values, strict=True):
        if value not in ids:
            raise InputError(_unknown_label(table, line, value, names, first=line == lines[0]))
    if must_vary and len(counts) == 1:
        raise InputError(
            f"{table.source}: all {len(values):,} rows have the label {values[0]!r}; "
            "a classifier needs two classes"
        )
    if known is None and len(counts) == len(values) >= 10:
        raise InputError(
            f"{table.source}: no label occurs twice ({values[0]!r}, {values[1]!r}, …): is this the label "
            "column? For numbers to be predicted as such give task regression"
        )
    return np.array([ids[value] for value in values], np.int32), names


def multi_label_indicators(
    table: Table, lines: Sequence[int], rows: Sequence[Sequence[str]], known: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the labels of rows that may have several, and the names of the classes.

    The labels are float32 (rows, classes), 1 for each label of the row and 0 for the others.

    Args:
        table: the table, for messages.
        lines: the line number of each row.
        rows: the labels of each row as text.
        known: the names of the classes in order; None uses the labels that occur, sorted.

    Raises:
        InputError: a label is not known, or there are fewer than two classes.
    """
    counts = Counter(label for row in rows for label in row)
    names = tuple(known) if known is not None else _sorted_names(counts)
    if len(names) < 2:
        raise InputError(
            f"{table.source}: the rows have {len(names)} different labels in all, a classifier needs two; is this the "
            "label column, and the separator between labels?"
        )
    ids = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(rows), len(names)), np.float32)
    for index, (line, row) in enumerate(zip(lines, rows, strict=True)):
        for label in row:
            if label not in ids:
                raise InputError(_unknown_label(table, line, label, names, first=line == lines[0]))
            found[index, ids[label]] = 1
    return found, names


def _sorted_names(labels: Counter[str]) -> tuple[str, ...]:
    """Returns the labels sorted by value if all are whole numbers, so that ids equal names, else alphabetically."""
    try:
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(labels))


def _unknown_label(table: Table, line: int, value: str, names: Sequence[str], *, first: bool) -> str:
    shown = "[" + ", ".join(map(repr, names[:_SHOWN])) + (", …]" if len(names) > _SHOWN else "]")
    lowered = {name.casefold(): name for name in names}
    nearest = difflib.get_close_matches(value.casefold(), lowered, n=1)
    if nearest:
        mend = f"did you mean {lowered[nearest[0]]!r}?"
    elif first and table.header is None:
        mend = "mend it or, if this line is a header, give the columns by name"
    else:
        mend = "mend the label, or remove the row"
    return f"{table.place(line)}: label {value!r} is not one of {shown}; {mend}"


def _warn_of_misspelling(
    table: Table, lines: Sequence[int], values: Sequence[str], counts: Counter[str]
) -> None:
    """Warns of rare labels that resemble a frequent one, as a misspelled label becomes a class of its own."""
    frequent = [name for name, count in counts.items() if count >= _FREQUENT]
    for rare, count in counts.items():
        if count > _RARE or len(counts) < 3 or parse_number(rare) is not None:
            continue
        likely = {
            name.casefold(): name
            for name in frequent
            if counts[name] >= _FREQUENT * count and _digits(name) == _digits(rare)
        }
        nearest = difflib.get_close_matches(rare.casefold(), likely, n=1, cutoff=_ALIKE)
        if nearest:
            meant = likely[nearest[0]]
            times = "once" if count == 1 else f"{count} times"
            warnings.warn(
                f"{table.place(lines[values.index(rare)])}: label {rare!r} occurs {times} and becomes a class of "
                f"its own; did you mean {meant!r}, which occurs {counts[meant]:,} times?",
                InputWarning,
                stacklevel=4,
            )


def _digits(name: str) -> str:
    return "".join(letter for letter in name if letter.isdigit())
