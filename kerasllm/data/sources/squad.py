"""Reading of questions about contexts, whose answers are spans of the context.

Three forms are read: the nested JSON of SQuAD 1.1 and 2.0, flat records of `question`, `context` and `answers` in
JSON, JSONL, Parquet or on the hub, and nested articles in a plain JSON list.

Reference: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, and 2018, https://arxiv.org/abs/1806.03822.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from kerasllm.data.sources.lines import text_lines
from kerasllm.data.sources.tables import Column, open_table
from kerasllm.errors import InputError, short
from kerasllm.tokenizers.cutting import without_surrogates

_UNKNOWN = -1


class Answer(NamedTuple):
    """A reference answer.

    Args:
        text: the answer's text.
        start: the index of its first character in the context; -1 if that is not known.
    """

    text: str
    start: int


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions, each about one of the contexts.

    Args:
        ids: the id of each question; all are different.
        questions: the text of each question.
        contexts: the contexts, each once.
        context_of: int64 (questions,), the index of each question's context.
        answers: the reference answers of each question; none if the context has no answer.
        source: the file or data set that the questions come from.
        notes: what was found and done, in sentences for the user.
    """

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    contexts: tuple[str, ...]
    context_of: np.ndarray
    answers: tuple[tuple[Answer, ...], ...]
    source: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Returns the number of questions."""
        return len(self.ids)

    def select(self, chosen: np.ndarray) -> Questions:
        """Returns some of the questions, by their indices, with the contexts that they need."""
        needed, context_of = np.unique(self.context_of[chosen], return_inverse=True)
        return replace(
            self,
            ids=tuple(self.ids[index] for index in chosen),
            questions=tuple(self.questions[index] for index in chosen),
            contexts=tuple(self.contexts[index] for index in needed),
            context_of=context_of,
            answers=tuple(self.answers[index] for index in chosen),
        )

    @property
    def has_unanswerable(self) -> bool:
        """Whether a question has no answer in its context, as in SQuAD 2.0."""
        return not all(self.answers)

    @property
    def spans(self) -> np.ndarray:
        """The first answer of each question with a known place, int64 (questions, 2): its start and end.

        They are in characters of the context; (-1, -1) for a question without an answer, and (-2, -2) for one
        whose answers have no known place, which no model can be trained on.
        """
        spans = np.full((len(self), 2), -1, np.int64)
        for index, answers in enumerate(self.answers):
            known = next((answer for answer in answers if answer.start >= 0), None)
            if known is not None:
                spans[index] = known.start, known.start + len(known.text)
            elif answers:
                spans[index] = -2
        return spans


class _Record(NamedTuple):
    place: str
    id: Any
    question: Any
    context: Any
    answers: Any
    is_impossible: Any


def read_questions(source: str, *, strict: bool = False, split: str = "train") -> Questions:
    """Reads questions with their contexts and reference answers.

    An answer that does not stand where `answer_start` says is moved there if `answer_start` counts bytes, and
    otherwise to the only place where the context has it. If there is none, or several, its place stays unknown.

    Args:
        source: a `.json` file as SQuAD has it; a `.jsonl`, `.json` or `.parquet` file or `hub:ID` with columns
            `question`, `context`, `answers` and, optionally, `id` and `is_impossible`. `answers` are a list of
            `{"text": …, "answer_start": …}`, or `{"text": […], "answer_start": […]}`.
        strict: whether to refuse wrong places of answers, and ids that occur twice.
        split: the split of a dataset on the hub, if the source names none.

    Raises:
        InputError: the file cannot be read or has another form; the message names the place, the id and the value.
    """
    source = str(source)
    reading = _Reading(source, strict)
    for record in _records(source, split):
        reading.add(record)
    return reading.result()


class _Reading:
    """The questions that were read so far, and what was unusual about them."""

    def __init__(self, source: str, strict: bool) -> None:
        self.source, self.strict = source, strict
        self.ids: dict[str, str] = {}  # with the place of each
        self.questions: list[str] = []
        self.contexts: dict[str, int] = {}
        self.context_of: list[int] = []
        self.answers: list[tuple[Answer, ...]] = []
        self.num_answers = 0
        self.faults: Counter[str] = Counter()
        self.doubled = ""

    def add(self, record: _Record) -> None:
        """Checks a record and adds it."""
        name = self._id(record)
        place = f"{record.place} (id {short(name)})"
        question = _text(record.question, "question", place).strip()
        context = _text(record.context, "context", place)
        if not isinstance(record.is_impossible, bool | None):
            raise InputError(
                f"{place}: is_impossible is {short(record.is_impossible)}, it must be true or false"
            )
        answers = [] if record.is_impossible else _answers(record.answers, place)
        self.ids[name] = record.place
        self.questions.append(question)
        self.context_of.append(self.contexts.setdefault(context, len(self.contexts)))
        self.answers.append(tuple(self._placed(answer, context, place) for answer in answers))
        self.num_answers += len(answers)

    def _id(self, record: _Record) -> str:
        """Returns the id of a record, or a number if it has none; one that occurs again gets a number, too."""
        given = record.id
        if given is None:
            given = len(self.ids) + 1
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise InputError(f"{record.place}: the id is {short(given)}, it must be text or a number")
        name = own = without_surrogates(str(given))
        number = 1
        while own in self.ids:
            if self.strict:
                raise InputError(
                    f"{record.place}: the id {short(name)} is that of {self.ids[own]}, too; give each its own"
                )
            number += 1
            own = f"{name}#{number}"
        if number > 1:
            self.faults["doubled"] += 1
            self.doubled = self.doubled or own
        return own

    def _placed(self, answer: Answer, context: str, place: str) -> Answer:
        """Returns an answer with the place where the context has its text."""
        text, start = answer
        if start >= 0 and context.startswith(text, start):
            return answer
        found = _by_bytes(text, start, context)
        kind = "bytes"
        if found < 0:
            found = context.find(text)
            kind = "moved"
            if found < 0 or context.find(text, found + 1) >= 0:
                found, kind = _UNKNOWN, "lost"
        if self.strict:
            here = (
                f", where the context has {short(context[start : start + len(text)])}" if start >= 0 else ""
            )
            mend = f"it stands at {found}" if found >= 0 else "the context has it nowhere, or more than once"
            raise InputError(
                f"{place}: the answer {short(text)} does not stand at answer_start {start}{here}; {mend}"
            )
        self.faults[kind] += 1
        return Answer(text, found)

    def result(self) -> Questions:
        """Returns the questions."""
        if not self.questions:
            raise InputError(f"{self.source}: holds no questions")
        return Questions(
            tuple(self.ids),
            tuple(self.questions),
            tuple(self.contexts),
            np.array(self.context_of, np.int64),
            tuple(self.answers),
            self.source,
            tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        faults = self.faults
        wrong = faults["bytes"] + faults["moved"] + faults["lost"]
        if wrong:
            done = {
                "bytes": "{:,} had a place in bytes, now in characters",
                "moved": "{:,} were moved to the only place where the context has them",
                "lost": "{:,} have no certain place and are not trained on",
            }
            parts = [words.format(faults[kind]) for kind, words in done.items() if faults[kind]]
            yield (
                f"{wrong:,} of {self.num_answers:,} answers do not stand where answer_start says: {', '.join(parts)}; "
                "--strict names the first"
            )
        if faults["doubled"]:
            yield (
                f"{faults['doubled']:,} questions have the id of an earlier one; "
                f"theirs became {self.doubled!r} and the like"
            )


def _by_bytes(text: str, start: int, context: str) -> int:
    """Returns the index of the character at byte `start` if the text stands there, else -1."""
    if start < 0 or context.isascii():
        return _UNKNOWN
    encoded = context.encode()
    return len(encoded[:start].decode()) if encoded.startswith(text.encode(), start) else _UNKNOWN


def _text(value: Any, what: str, place: str) -> str:
    """Returns a question or a context, which must have more than white space."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: the {what} is {short(value)}, it must be text")
    return without_surrogates(value)


def _answers(value: Any, place: str) -> list[Answer]:
    """Returns the answers in either form; those without a text stand for no answer."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if starts is None and isinstance(texts, list):
            starts = [None] * len(texts)
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise InputError(
                f"{place}: answers are {short(value)}; text and answer_start must be lists of one length"
            )
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list):
        pairs = []
        for each in value:
            if not isinstance(each, Mapping):
                raise InputError(
                    f"{place}: an answer is {short(each)}, it must have a text and an answer_start"
                )
            pairs.append((each.get("text"), each.get("answer_start")))
    else:
        raise InputError(
            f"{place}: answers are {short(value)}, they must be a list; an empty one for no answer"
        )
    return [_answer(text, start, place) for text, start in pairs if text != ""]


def _answer(text: Any, start: Any, place: str) -> Answer:
    if not isinstance(text, str):
        raise InputError(f"{place}: the text of an answer is {short(text)}, it must be text")
    if start is None:
        start = _UNKNOWN
    if not isinstance(start, int) or isinstance(start, bool):
        raise InputError(
            f"{place}: answer_start of {short(text)} is {short(start)}, it must be a number of characters"
        )
    return Answer(without_surrogates(text), max(start, _UNKNOWN))


def _records(source: str, split: str) -> Iterator[_Record]:
    """Yields the records of a source of any form."""
    content = None
    if source.lower().removesuffix(".gz").endswith(".json") and not source.startswith("hub:"):
        content = _json(source)
    if content is None:
        yield from _from_table(source, split)
        return
    key, entries = "", content
    if isinstance(content, Mapping):
        key, entries = "data", content.get("data")
    if not isinstance(entries, list):
        raise InputError(
            f"{source}: {key} is {short(entries)}, it must be a list of articles, or of questions"
        )
    for number, entry in enumerate(entries):
        place = f"{source}: {key}[{number}]"
        if not isinstance(entry, Mapping):
            raise InputError(f"{place} is {short(entry)}, it must be an article, or a question")
        if "paragraphs" in entry:
            yield from _from_article(entry, place)
        else:
            yield _flat(entry, place)


def _json(source: str) -> Any:
    """Returns the content of a JSON file, or None if it holds one JSON object a line."""
    whole = "".join(line for _, line in text_lines(source))
    if not whole.strip():
        raise InputError(f"{source}: the file is empty")
    try:
        content = json.loads(whole)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise InputError(f"{source}:{error.lineno}: not JSON: {error.msg}; is the file whole?") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not JSON: {error}") from error
    if isinstance(content, Mapping) and "data" not in content and "question" in content:
        return None
    if not isinstance(content, list | Mapping) or (isinstance(content, Mapping) and "data" not in content):
        raise InputError(f'{source}: is not of SQuAD\'s form, {{"data": [{{"paragraphs": […]}}]}}')
    return content


def _from_article(article: Mapping[str, Any], place: str) -> Iterator[_Record]:
    for index, paragraph in enumerate(_list(article, "paragraphs", place)):
        there = f"{place}.paragraphs[{index}]"
        if not isinstance(paragraph, Mapping):
            raise InputError(f"{there} is {short(paragraph)}, it must have a context and qas")
        for number, question in enumerate(_list(paragraph, "qas", there)):
            here = f"{there}.qas[{number}]"
            if not isinstance(question, Mapping):
                raise InputError(f"{here} is {short(question)}, it must have a question and answers")
            yield _flat({**question, "context": paragraph.get("context")}, here)


def _list(holder: Mapping[str, Any], name: str, place: str) -> list[Any]:
    found = holder.get(name)
    if not isinstance(found, list):
        raise InputError(f"{place}: {name} are {short(found)}, they must be a list")
    return found


def _flat(entry: Mapping[str, Any], place: str) -> _Record:
    answers = entry.get("answers")
    if answers is None and entry.get("is_impossible") is True:
        answers = []
    return _Record(
        place,
        entry.get("id"),
        entry.get("question"),
        entry.get("context"),
        answers,
        entry.get("is_impossible"),
    )


def _from_table(source: str, split: str) -> Iterator[_Record]:
    table = open_table(source, by_index=False, split=split)
    header = table.header or ()
    optional = [name for name in ("id", "is_impossible") if name in header]
    columns = [Column(name, "text") for name in ("question", "context", "answers", *optional)]
    for line, values in table.rows(columns):
        named = dict(zip((column.name for column in columns), values, strict=True))
        yield _flat(named, table.place(line))
