"""Figures for answers by SQuAD's rule: the share of exact matches, and the F1 of words.

Answers are compared without case, punctuation, articles and the amount of white space; of several reference answers,
the best counts.

Reference: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, section 6.1, and 2018,
https://arxiv.org/abs/1806.03822, section 5.1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Returns an answer in lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(predicted: str, references: Sequence[str]) -> tuple[float, float]:
    """Returns whether an answer matches a reference answer exactly, 1 or 0, and its F1, both for the best reference.

    Args:
        predicted: the predicted answer; "" for no answer.
        references: the reference answers; none if "no answer" is right.
    """
    wanted = [text for text in map(normalize_answer, references) if text] or [""]
    found = normalize_answer(predicted)
    return float(found in wanted), max(_f1(found.split(), text.split()) for text in wanted)


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    same = (Counter(found) & Counter(wanted)).total()
    return 2 * same / (len(found) + len(wanted))


def answer_figures(scores: np.ndarray, answerable: np.ndarray) -> dict[str, Any]:
    """Returns the mean figures of predictions, as shares in [0, 1].

    Args:
        scores: float (questions, 2), each question's exact match and F1.
        answerable: bool (questions,), whether the context has an answer.

    Returns:
        `exact_match` and `f1`; if a question has no answer, also `has_answer` and `no_answer`, which hold the same
        figures, and the number of `examples`, for the questions with and without an answer.
    """
    figures: dict[str, Any] = _means(scores)
    if not answerable.all():
        for name, chosen in (("has_answer", answerable), ("no_answer", ~answerable)):
            figures[name] = _means(scores[chosen]) | {"examples": int(chosen.sum())}
    return figures


def _means(scores: np.ndarray) -> dict[str, float]:
    exact, f1 = scores.mean(axis=0) if len(scores) else (0.0, 0.0)
    return {"exact_match": float(exact), "f1": float(f1)}


def best_null_threshold(null_odds: np.ndarray, f1: np.ndarray, answerable: np.ndarray) -> float:
    """Returns the threshold with the greatest F1, above whose odds a question counts as having no answer.

    Args:
        null_odds: float (questions,), how much more "no answer" scores than the best span.
        f1: float (questions,), the F1 of the best span.
        answerable: bool (questions,), whether the context has an answer.
    """
    null_odds = np.nan_to_num(null_odds, nan=0.0, posinf=1e6, neginf=-1e6)  # infinite where there is no span
    order = np.argsort(null_odds, kind="stable")
    odds = null_odds[order]
    gain = np.where(answerable, f1, -1.0)[order]  # of giving the span instead of "no answer"
    total = np.concatenate([[0.0], np.cumsum(gain)])  # by the number of questions that get their span
    possible = np.concatenate([[True], odds[1:] > odds[:-1], [True]])  # equal odds are treated alike
    count = int(np.where(possible, total, -np.inf).argmax())
    if count == 0:
        return float(odds[0]) - 1.0
    if count == len(odds):
        return float(odds[-1]) + 1.0
    return float(odds[count - 1] + odds[count]) / 2
