"""Questions made from plain text, so that a reader can be pretrained before it sees the few that people asked.

A word or several of a sentence are the answer; the words around them, some of which are left out or change places, are
the question, with [MASK] where the answer stood; and the passage that the sentence is part of is the context. A reader
learns from them to find the words of a question in a context, and where an answer begins and ends.

Reference: Lewis et al. 2019, "Unsupervised question answering by cloze translation", https://arxiv.org/abs/1906.04980,
from which the noise is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasllm.data.random_streams import CLOZE, random_stream
from kerasllm.data.sources.corpus import PYTHON_DOCS, Corpus
from kerasllm.data.sources.sentences import split_paragraphs
from kerasllm.data.sources.squad import Answer, Questions, read_questions
from kerasllm.data.sources.tables import Column, as_text, open_table
from kerasllm.errors import InputError, short
from kerasllm.tokenizers.cutting import without_surrogates

PASSAGE_WORDS = 120
"""Words after which a passage ends with the sentence."""

QUESTIONS = 3
"""The most questions about a sentence."""

_LEAST_WORDS = 6  # of a sentence
_LEAST_LEFT = 3  # words of a question
_LONGEST_ANSWER = 5
_REACH = 3, 10  # words of the sentence to each side of the answer that a question has, at least and at most
_LEFT_OUT, _FAR = 0.15, 2.5  # share of words, and places that a word may move
_COMMON = 0.5  # of all running words are common ones, which are no answers
_PREFERRED = 3.0  # times as often is a name or a number the answer


class _Span(NamedTuple):
    first: int  # word of the sentence
    last: int
    weight: float


def is_plain_text(source: str) -> bool:
    """Returns whether a source is read as plain text, as `Corpus` reads it, and not as questions."""
    is_file = source.lower().removesuffix(".gz").endswith((".txt", ".md"))
    return source == PYTHON_DOCS or is_file or Path(source).expanduser().is_dir()


def read_cloze_questions(source: str, seed: int, *, split: str = "train") -> Questions:
    """Returns questions made from a text, up to three about a sentence.

    Args:
        source: plain text: a file, a directory of .txt and .md files, or `python-docs`; a .json file of questions, of
            which the contexts alone are used; or .jsonl, .parquet or `hub:ID` with a column `context` or `text`.
        seed: seed of the choice of answers and of the noise.
        split: the split of a dataset on the hub, if the source names none.

    Raises:
        InputError: the source cannot be read, or no sentence is long enough.
    """
    name = source.lower().removesuffix(".gz")
    if name.endswith(".json"):
        texts: Iterable[str] = read_questions(source).contexts
    elif name.startswith("hub:") or name.endswith((".jsonl", ".ndjson", ".parquet")):
        table = open_table(source, by_index=False, split=split)
        column = "context" if "context" in (table.header or ()) else "text"
        rows = table.rows([Column(column, "text")])
        texts = dict.fromkeys(_text(text, column, table.place(line)) for line, (text,) in rows)
    else:
        return cloze_questions(Corpus([source]).documents(), source, seed)
    return cloze_questions(map(split_paragraphs, texts), source, seed)


def _text(value: Any, column: str, place: str) -> str:
    text = as_text(value, place)
    if not isinstance(text, str):
        raise InputError(f"{place}: the {column} is {short(value)}, it must be text")
    return without_surrogates(text)


def cloze_questions(documents: Iterable[list[str]], source: str, seed: int) -> Questions:
    """Returns questions about documents; see `read_cloze_questions`.

    Args:
        documents: the sentences of each document, in a language that puts spaces between words.
        source: the name of the documents.
        seed: seed of the choice of answers and of the noise.

    Raises:
        InputError: no sentence is long enough.
    """
    passages = [passage for sentences in documents for passage in _passages(sentences)]
    counts = Counter(
        word.group().lower()
        for passage in passages
        for sentence in passage
        for word in _words().finditer(sentence)
    )
    common = _common(counts)
    asked: list[str] = []
    contexts: list[str] = []
    context_of: list[int] = []
    answers: list[tuple[Answer, ...]] = []
    for number, passage in enumerate(passages):
        random = random_stream(seed, CLOZE, number)
        start = 0
        for sentence in passage:
            for question, answer in _questions(sentence, common, random):
                asked.append(question)
                context_of.append(len(contexts))
                answers.append((Answer(answer.text, start + answer.start),))
            start += len(sentence) + 1
        if len(contexts) in context_of[-1:]:
            contexts.append(" ".join(passage))
    if not asked:
        raise InputError(
            f"{source}: no question can be made from it; that takes sentences of {_LEAST_WORDS} words and more, with "
            "spaces between them"
        )
    note = "the questions were made from the text: a part of a sentence is the answer, the rest asks for it"
    ids = tuple(str(number) for number in range(1, len(asked) + 1))
    places = np.array(context_of, np.int64)
    return Questions(ids, tuple(asked), tuple(contexts), places, tuple(answers), source, (note,))


@cache
def _words() -> re.Pattern[str]:
    """Returns the pattern of a word: letters with the marks and joiners that belong to them, and digits."""
    marks = [letter for letter in map(chr, range(0x300, 0x20000)) if unicodedata.category(letter)[0] == "M"]
    letter = rf"[\w{''.join(map(re.escape, marks))}\u200c\u200d]"
    return re.compile(rf"\w{letter}*(?:[-'.,’]\w{letter}*)*")


def _passages(sentences: list[str]) -> Iterator[list[str]]:
    """Yields the sentences of each passage of a document."""
    passage: list[str] = []
    length = 0
    for sentence in sentences:
        passage.append(sentence)
        length += len(sentence.split())
        if length >= PASSAGE_WORDS:
            yield passage
            passage, length = [], 0
    if passage:
        yield passage


def _common(counts: Counter[str]) -> set[str]:
    """Returns the words that are most frequent and together make up `_COMMON` of the text."""
    common: set[str] = set()
    left = _COMMON * counts.total()
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        left -= count
        if left < 0:
            break
        common.add(word)
    return common


def _questions(sentence: str, common: set[str], random: np.random.Generator) -> Iterator[tuple[str, Answer]]:
    """Yields questions with different answers, whose places are those in the sentence."""
    words = list(_words().finditer(sentence))
    spans = list(_spans(sentence, words, common)) if len(words) >= _LEAST_WORDS else []
    if not spans:
        return
    weights = np.array([span.weight for span in spans])
    count = min(QUESTIONS, len(spans))
    for index in random.choice(len(spans), count, replace=False, p=weights / weights.sum()):
        first, last, _ = spans[index]
        before, after = random.integers(*_REACH, 2, endpoint=True)
        left = _with_noise([word.group() for word in words[max(0, first - before) : first]], random)
        right = _with_noise([word.group() for word in words[last + 1 : last + 1 + after]], random)
        if len(left) + len(right) >= _LEAST_LEFT:
            start = words[first].start()
            yield " ".join([*left, "[MASK]", *right]), Answer(sentence[start : words[last].end()], start)


def _spans(sentence: str, words: list[re.Match[str]], common: set[str]) -> Iterator[_Span]:
    """Yields runs of words that are not common, and have nothing but a space or a hyphen between them."""
    first = 0
    while first < len(words):
        last = first
        if words[first].group().lower() not in common:
            while (
                last + 1 < len(words)
                and last + 1 - first < _LONGEST_ANSWER
                and words[last + 1].group().lower() not in common
                and sentence[words[last].end() : words[last + 1].start()] in (" ", "-")
            ):
                last += 1
            text = sentence[words[first].start() : words[last].end()]
            is_name = first > 0 and text[0].isupper()
            weight = _PREFERRED if is_name or any(letter.isdigit() for letter in text) else 1.0
            yield _Span(first, last, weight)
        first = last + 1


def _with_noise(words: list[str], random: np.random.Generator) -> list[str]:
    """Returns the words without some of them, in nearly the same order."""
    drawn, moved = random.random((2, len(words))).tolist()
    places = sorted(
        (place + _FAR * moved[place], place) for place in range(len(words)) if drawn[place] >= _LEFT_OUT
    )
    return [words[place] for _, place in places]
