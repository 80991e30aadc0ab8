"""Answers to questions from texts, by a model for extractive question answering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.data.batches.questions import QuestionBatches
from kerasllm.data.examples.questions import encode_questions
from kerasllm.errors import InputError
from kerasllm.tasks.answer_spans import AnswerSpan, find_answers
from kerasllm.tasks.base import few_shapes
from kerasllm.tasks.ordered_outputs import predict_tokens


@dataclass(frozen=True)
class ReadingSettings:
    """Settings of reading.

    Args:
        sequence_length: the most tokens of a window, with question and special tokens.
        document_stride: tokens that neighboring windows of a context share.
        max_answer_length: the most tokens of an answer.
        n_best: the most answers to a question.
        batch_size: number of windows in a batch.
        null_threshold: the odds above which a question counts as having no answer; None if all have one.
    """

    sequence_length: int = 384
    document_stride: int = 128
    max_answer_length: int = 30
    n_best: int = 1
    batch_size: int = 16
    null_threshold: float | None = None


@dataclass(frozen=True)
class FoundAnswer:
    """An answer to a question.

    Args:
        text: the answer, as its context has it; empty for "no answer".
        context: the index of its context among those of the question; -1 for "no answer".
        start: the index of its first character in the context.
        end: the index after its last character.
        score: the sum of the logits of its first and last token, comparable between contexts.
        probability: the softmax of the scores of the best answers.
    """

    text: str
    context: int
    start: int
    end: int
    score: float
    probability: float


_CANDIDATES = 20  # answers among which the probabilities are shared out


def answers(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    contexts: Sequence[Sequence[str]],
    settings: ReadingSettings | None = None,
) -> list[list[FoundAnswer]]:
    """Returns the best answers to each question, the best first.

    Args:
        model: a `BertQuestionAnswering`.
        tokenizer: its tokenizer, of the `tokenizers` library.
        questions: the questions.
        contexts: the texts to read for each question, at least one.
        settings: the settings; None for the defaults.

    Raises:
        InputError: a setting is out of range.
    """
    settings = settings or ReadingSettings()
    asked = [question for question, own in zip(questions, contexts, strict=True) for _ in own]
    texts = [context for own in contexts for context in own]
    different = list(dict.fromkeys(texts))
    numbers = {text: number for number, text in enumerate(different)}
    encoded = encode_questions(
        tokenizer,
        asked,
        different,
        np.array([numbers[text] for text in texts], np.int64),
        settings.sequence_length,
        stride=settings.document_stride,
    )
    shapes = few_shapes(len(encoded.windows), settings.batch_size, settings.sequence_length)
    batches = QuestionBatches(encoded, shuffle=False, **shapes)
    found = find_answers(
        encoded,
        predict_tokens(model, batches),
        texts,
        max_answer_length=settings.max_answer_length,
        n_best=max(settings.n_best, _CANDIDATES),
    )
    results = []
    start = 0
    for own in contexts:
        mine = found[start : start + len(own)]
        start += len(own)
        spans = [(number, span) for number, each in enumerate(mine) for span in each.spans]
        spans.sort(key=lambda each: -each[1].score)
        nothing = min((each.nothing for each in mine), key=lambda each: each.score)
        results.append(_ranked(spans, nothing, settings))
    return results


def _ranked(
    spans: list[tuple[int, AnswerSpan]], nothing: AnswerSpan, settings: ReadingSettings
) -> list[FoundAnswer]:
    """Returns the answers to a question with their probabilities."""
    kept = spans[: max(settings.n_best, _CANDIDATES)]
    threshold = settings.null_threshold
    if threshold is not None:
        kept.append((-1, nothing))
    # The threshold moves "no answer" to its place among the spans.
    scores = np.array([span.score - (threshold or 0.0) * (number < 0) for number, span in kept])
    order = np.argsort(-scores, kind="stable")[: settings.n_best]
    shares = softmax(scores)
    return [
        FoundAnswer(span.text, number, span.start, span.end, span.score, float(shares[index]))
        for index, (number, span) in ((index, kept[index]) for index in order)
    ]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Returns the softmax of scores, float64 (scores,)."""
    if not len(scores):
        return scores
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def chosen_threshold(directory: Path) -> float | None:
    """Returns the threshold that a run chose on its validation data, or None if its questions all had an answer.

    Args:
        directory: the model directory of a run, beside whose results.json it lies.
    """
    try:
        results = json.loads((directory.parent / "results.json").read_text(encoding="utf-8"))
        threshold = results["validation"]["null_threshold"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(threshold) if isinstance(threshold, int | float) else None


def reading_settings(
    directory: Path,
    positions: int,
    sequence_length: int | None = None,
    document_stride: int | None = None,
    null_threshold: float | None = None,
    **others: Any,
) -> ReadingSettings:
    """Returns the settings for a reader on the disk.

    Args:
        directory: its model directory.
        positions: the most tokens of a window that it takes.
        sequence_length: tokens of a window; 384 if None, or `positions` if these are fewer.
        document_stride: tokens that neighboring windows share; a third of a window if None.
        null_threshold: the odds above which a question has no answer; those that the run has chosen if None.
        others: the other settings.

    Raises:
        InputError: `sequence_length` is above `positions`.
    """
    length = min(384, positions) if sequence_length is None else sequence_length
    if length > positions:
        raise InputError(f"--sequence_length {length} is above the {positions} positions of {directory}")
    return ReadingSettings(
        sequence_length=length,
        document_stride=length // 3 if document_stride is None else document_stride,
        null_threshold=chosen_threshold(directory) if null_threshold is None else null_threshold,
        **others,
    )
