"""Conversion of labels from text to class ids or numbers, and detection of the task from them."""

import difflib
import math
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np

from kerasllm.data.sources.tables import Table
from kerasllm.errors import InputError, InputWarning

_SHOWN = 20  # number of names in a message
_RARE = 2  # a label that occurs at most this often and resembles one 25 times as frequent seems misspelled
_FREQUENT = 25
_ALIKE = 0.8
_LARGEST = float(np.finfo(np.float32).max)


_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


def class_key(label: str) -> str:
    """Returns the same text for all spellings of a class: "1" for "1.0", "+1" and "1.000e+00", and "true" for "True".

    Tools write whole numbers as fractions where a column has gaps, and each writes Booleans in its own way. A number
    that begins with another zero, such as "01", is a code.
    """
    if _NUMBER.fullmatch(label) and (number := Decimal(label)) == number.to_integral_value():
        return str(int(number))
    return label.lower() if label.lower() in ("true", "false") else label


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
        InputError: all but a few labels are fractions, numbers are missing (`nan`) among numbers, or numbers have a
            decimal comma.
    """
    comma = next((i for i, value in enumerate(values) if _COMMA.fullmatch(value)), None)
    if comma is not None and all(_COMMA.fullmatch(v) or parse_number(v) is not None for v in values):
        raise InputError(
            f"{table.place(lines[comma])}: label {values[comma]!r} has a decimal comma; write "
            f"{values[comma].replace(',', '.')}, or give task classification"
        )
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
        known: the names of the classes in order; None uses the labels that occur, sorted by value if all are
            numbers, else alphabetically. Labels of one `class_key` are one class.
        must_vary: whether to refuse a single class, as in training.

    Raises:
        InputError: a label is not known, there is a single class, or no label occurs twice.

    Warns:
        InputWarning: a label seems misspelled, or two labels seem to mean the same.
    """
    if known is None:
        name_of = _class_names(values)
        values = [name_of[value] for value in values]
        counts = Counter(values)
        names = _sorted_names(counts)
        _warn_of_misspelling(table, lines, values, counts)
        _warn_of_two_spellings(table, names)
    else:
        names = tuple(known)
        name_of = _known_names(set(values), names)
        values = [name_of[value] for value in values]
        counts = Counter(values)
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
    every = {label for row in rows for label in row}
    name_of = _class_names(every) if known is None else _known_names(every, known)
    rows = [[name_of[label] for label in row] for row in rows]
    counts = Counter(label for row in rows for label in row)
    names = tuple(known) if known is not None else _sorted_names(counts)
    if known is None:
        _warn_of_two_spellings(table, names)
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


def renamed(names: Sequence[str] | None, new_names: str) -> tuple[str, ...]:
    """Returns the names that the user gives to classes, in the order of the classes.

    Args:
        names: the names in the data; None for regression.
        new_names: the new name of each class, `0=negative,1=positive`.

    Raises:
        InputError: a class has no new name or two, a name is no class, or two classes get one name.
    """
    option = f"--label_names {new_names}"
    if names is None:
        raise InputError(f"{option} is for classes, and the labels are numbers to predict")
    shown = "[" + ", ".join(map(repr, names[:_SHOWN])) + (", …]" if len(names) > _SHOWN else "]")
    by_key = {class_key(name): name for name in names}
    found: dict[str, str] = {}
    for entry in new_names.split(","):
        old, equals, new = (part.strip() for part in entry.partition("="))
        if not (old and equals and new):
            raise InputError(
                f"{option}: {entry!r} is not LABEL=NAME; name each of {shown}, as in 0=negative,1=positive"
            )
        name = old if old in names else by_key.get(class_key(old))
        if name is None:
            raise InputError(f"{option}: there is no label {old!r} in the data, only {shown}")
        if name in found:
            raise InputError(f"{option}: label {old!r} has two names")
        if new in found.values():
            raise InputError(f"{option}: two labels have the name {new!r}")
        found[name] = new
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"{option}: label {missing[0]!r} has no name; name each of {shown}")
    return tuple(found[name] for name in names)


def _class_names(values: Iterable[str]) -> Mapping[str, str]:
    """Returns the name of each label's class: the label itself, or the key if all are whole or spellings vary."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for value in values:
        spellings[class_key(value)].add(value)
    all_whole = all(_WHOLE.fullmatch(key) for key in spellings)
    by_key = all_whole or any(len(group) > 1 for group in spellings.values())
    return {value: key if by_key else value for key, group in spellings.items() for value in group}


def _known_names(values: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Returns the known class that each label spells, or the label itself."""
    keys = Counter(map(class_key, names))
    name_of = {class_key(name): name for name in names if keys[class_key(name)] == 1}
    exact = set(names)
    return {value: value if value in exact else name_of.get(class_key(value), value) for value in values}


def _sorted_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the labels sorted by value if all are numbers, so that ids equal names 0, 1, …, else alphabetically."""
    try:
        numbers = {label: Decimal(label) for label in labels}
    except InvalidOperation:
        return tuple(sorted(labels))
    if not all(number.is_finite() for number in numbers.values()):
        return tuple(sorted(labels))
    return tuple(sorted(labels, key=lambda label: (numbers[label], label)))


def _warn_of_two_spellings(table: Table, names: Sequence[str]) -> None:
    """Warns of classes whose names look alike or spell one number, and of Booleans beside 0 and 1."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_likeness(name)].append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    lowered = {name.lower(): name for name in names}
    groups += [
        [lowered[word], lowered[digit]]
        for word, digit in (("false", "0"), ("true", "1"))
        if word in lowered and digit in lowered
    ]
    for group in groups:
        warnings.warn(
            f"{table.source}: the labels {' and '.join(map(repr, group))} are classes of their own; if they mean "
            "the same, write them alike",
            InputWarning,
            stacklevel=4,
        )


def _likeness(name: str) -> str:
    """Returns a text that is the same for names that look alike, such as those with an invisible character."""
    shown = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    text = " ".join(unicodedata.normalize("NFKC", shown).casefold().split())
    try:
        return str(int(text))
    except ValueError:
        return text


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
