"""Relevance judgements (qrels) and result lists (runs) in TREC's forms.

Judgements are lines of query, iteration, document and grade (TREC); query, document and grade below a header (BEIR); or
query, document and code without one (SMART, as of Cranfield). A grade above 0 is relevant, and its gain. In SMART's
form every listed document is relevant, with a gain of 1: there the codes run backwards, from 1 for a full answer to 4,
and -1 stands for a document that is relevant beyond doubt. It has no code 0: with one, the numbers are grades.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError, short

Judged = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Judgements:
    """The gains of documents for queries.

    Args:
        gains: for each query the gain of each judged document, 0 for irrelevant ones.
        form: the form of the file.
        notes: sentences about what is unusual, for the user.
    """

    gains: Judged
    form: Literal["TREC", "BEIR", "SMART"]
    notes: tuple[str, ...] = ()


def read_judgements(source: str) -> Judgements:
    """Reads judgements; see the docstring of this module.

    Raises:
        InputError: there is no such file, or a line is damaged; the message names file and line.
    """
    grades: Judged = {}
    form: Literal["TREC", "BEIR", "SMART"] | None = None
    for number, line in text_lines(source):
        fields = line.split()
        if not fields:
            continue
        if form is None:
            header = len(fields) == 3 and _whole(fields[2]) is None
            form = "TREC" if len(fields) == 4 else "BEIR" if header else "SMART"
            if header:
                continue
        wanted = 4 if form == "TREC" else 3
        grade = _whole(fields[-1])
        if len(fields) != wanted or grade is None:
            raise InputError(
                f"{source}:{number}: {short(line.strip())} is no judgement: it must be query, "
                f"{'iteration, ' if wanted == 4 else ''}document and a whole number"
            )
        query, document = fields[0], fields[-2]
        before = grades.setdefault(query, {}).setdefault(document, grade)
        if before != grade:
            raise InputError(
                f"{source}:{number}: document {short(document)} of query {short(query)} has the grade {grade}, "
                f"and {before} before"
            )
    if form is None or not grades:
        raise InputError(f"{source}: holds no judgements")
    notes = []
    negative = sum(grade < 0 for own in grades.values() for grade in own.values())
    if form == "SMART" and any(0 in own.values() for own in grades.values()):
        form = "BEIR"
        notes.append("judgements of three columns without a header, some of them 0: read as grades")
    if form == "SMART":
        gains = {query: dict.fromkeys(own, 1) for query, own in grades.items()}
        notes.append(
            f"judgements in SMART's form: all listed documents are relevant, also the {negative} with -1"
        )
    else:
        gains = {query: {name: max(grade, 0) for name, grade in own.items()} for query, own in grades.items()}
        if negative:
            notes.append(f"{negative} judgements have a grade below 0: irrelevant, as in TREC")
    return Judgements(gains, form, tuple(notes))


def read_run(source: str) -> Run:
    """Reads a result list: lines of query, Q0, document, rank, score and the name of the run.

    Raises:
        InputError: there is no such file, or a line is damaged; the message names file and line.
    """
    run: Run = {}
    for number, line in text_lines(source):
        fields = line.split()
        if not fields:
            continue
        score = _number(fields[4]) if len(fields) == 6 else None
        if score is None:
            raise InputError(
                f"{source}:{number}: {short(line.strip())} is no result: it must be query, Q0, document, rank, score "
                "and the name of the run"
            )
        if fields[2] in run.setdefault(fields[0], {}):
            raise InputError(
                f"{source}:{number}: document {short(fields[2])} occurs twice for query {short(fields[0])}"
            )
        run[fields[0]][fields[2]] = score
    return run


def run_lines(results: Mapping[str, Iterable[tuple[str, float]]], name: str = "kerasllm") -> str:
    """Returns a result list in TREC's form.

    Args:
        results: for each query the documents and their scores, best first.
        name: the name of the run.
    """
    return "".join(
        f"{query} Q0 {document} {rank} {score:.9g} {name}\n"
        for query, found in results.items()
        for rank, (document, score) in enumerate(found, 1)
    )


def _whole(text: str) -> int | None:
    """Returns a whole number of a usual size, or None."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) < 1 << 31 else None


def _number(text: str) -> float | None:
    """Returns a finite number, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
