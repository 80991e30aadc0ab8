"""Answers from documents: the passages that suit a question are retrieved, and an answer is read in them.

Reference: Chen et al. 2017, https://arxiv.org/abs/1704.00051.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.data.sources.documents import Cutting, Passage
from kerasllm.data.token_cache.cache import default_cache_directory
from kerasllm.errors import InputError
from kerasllm.tasks.reading import FoundAnswer, ReadingSettings, answers
from kerasllm.tasks.retrieval import Retriever, build


@dataclass(frozen=True)
class DocumentAnswer:
    """An answer with the passage that it stands in.

    Args:
        found: the answer, with its place in the passage.
        passage: the passage.
    """

    found: FoundAnswer
    passage: Passage


def open_retriever(documents: str, model: str, cutting: Cutting | None = None) -> Retriever:
    """Returns a retriever of documents, whose index is built on first use and again when they have changed.

    The index is kept in `$KERASLLM_CACHE`, or `~/.cache/kerasllm`.

    Args:
        documents: the file or directory of documents.
        model: "bm25", or an encoder: a run, a model directory or a hub id.
        cutting: how text files are cut into passages.

    Raises:
        InputError: the documents or the model cannot be read.
    """
    named = repr((str(Path(documents).resolve()), model, cutting))
    directory = default_cache_directory() / "indexes" / hashlib.sha256(named.encode()).hexdigest()[:32]
    if directory.is_dir():
        try:
            return Retriever([str(directory)])
        except InputError as error:
            print(f"{error}: building it anew", flush=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    index, _ = build(str(directory), documents, model, cutting=cutting)
    print(f"{documents}: {len(index.passages):,} passages indexed, kept in {directory}", flush=True)
    return Retriever([str(directory)])


def document_answers(
    retriever: Retriever,
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    *,
    num_passages: int = 10,
    settings: ReadingSettings | None = None,
) -> list[list[DocumentAnswer]]:
    """Returns the best answers to each question with their passages, the best first.

    Args:
        retriever: the retriever.
        model: a `BertQuestionAnswering`.
        tokenizer: its tokenizer.
        questions: the questions.
        num_passages: number of passages that are read for a question.
        settings: the settings of the reader; None for the defaults.
    """
    passages = retrieved_passages(retriever, questions, num_passages)
    return read_passages(model, tokenizer, questions, passages, settings)


def retrieved_passages(
    retriever: Retriever, questions: Sequence[str], num_passages: int
) -> list[list[Passage]]:
    """Returns the passages that suit each question, the best first."""
    queries = [Passage(str(number), question) for number, question in enumerate(questions)]
    results = retriever.search(queries, num_passages)
    return [[retriever.passages[name] for name, _ in results[query.id]] for query in queries]


def read_passages(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    settings: ReadingSettings | None = None,
) -> list[list[DocumentAnswer]]:
    """Returns the best answers to each question in its passages, the best first.

    The probability of an answer is its share among the answers in its passage, times that of the passage, which is
    proportional to 1 / rank: a reader has learned to tell the answers in one passage apart, not those of several, and
    ranks mean the same for every retriever.

    Args:
        model: a `BertQuestionAnswering`.
        tokenizer: its tokenizer.
        questions: the questions.
        passages: the passages of each question, the best first.
        settings: the settings of the reader; None for the defaults.
    """
    settings = settings or ReadingSettings()
    asked = [question for question, own in zip(questions, passages, strict=True) for _ in own]
    texts = [[passage.text] for own in passages for passage in own]
    read = iter(answers(model, tokenizer, asked, texts, settings) if asked else [])
    found = []
    for own in passages:
        shares = 1 / np.arange(1, len(own) + 1)
        shares /= max(shares.sum(), 1)
        likely: list[DocumentAnswer] = []
        for passage, share in zip(own, shares.tolist(), strict=True):
            spans = itertools.takewhile(lambda answer: answer.text, next(read))  # up to "no answer"
            likely += [
                DocumentAnswer(replace(span, probability=span.probability * share), passage) for span in spans
            ]
        likely.sort(key=lambda answer: -answer.found.probability)
        found.append(likely[: settings.n_best])
    return found


def text_answers(
    model: Any, tokenizer: Any, questions: Sequence[str], context: str, settings: ReadingSettings
) -> list[list[DocumentAnswer]]:
    """Returns the best answers to each question in one text, the best first.

    Args:
        model: a `BertQuestionAnswering`.
        tokenizer: its tokenizer.
        questions: the questions.
        context: the text.
        settings: the settings of the reader.
    """
    whole = Passage("", context)
    found = answers(model, tokenizer, questions, [[context]] * len(questions), settings)
    return [[DocumentAnswer(answer, whole) for answer in own] for own in found]


def row_of(question: str, answer: DocumentAnswer) -> dict[str, object]:
    """Returns an answer for JSON lines; start and end are null for "no answer"."""
    found, passage = answer.found, answer.passage
    place = (passage.start + found.start, passage.start + found.end) if found.text else (None, None)
    row = {"question": question, "answer": found.text, "score": round(found.probability, 4)}
    row |= {"start": place[0], "end": place[1]}
    return row | ({"passage": passage.id, "file": passage.file} if passage.id else {})


def lines_of(question: str, rows: list[dict[str, object]]) -> list[str]:
    """Returns a question and its answers, with score and place, as a person reads them."""
    lines = [question]
    for row in rows:
        place = f"  {row.get('file') or row.get('passage') or ''} characters {row['start']}-{row['end']}"
        text = " ".join(str(row["answer"]).split())
        lines.append(f"  {row['score']:.4f}  {text or '(no answer)'}{place if text else ''}")
    return lines if rows else [question, "  (no answer)"]
