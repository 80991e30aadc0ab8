"""The best answers to questions, found among the spans of all windows of their contexts.

Spans are compared by the sum of the logits of their first and last token. A softmax for each window would make
windows incomparable, as a window without the answer still has probabilities that sum to 1.

Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, sections 4.2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kerasllm.data.examples.questions import EncodedQuestions


@dataclass(frozen=True)
class AnswerSpan:
    """A span of a context that may be the answer.

    Args:
        text: the characters of the span, as the context has them; empty for "no answer".
        start: the index of its first character.
        end: the index after its last character.
        start_logit: the logit of its first token.
        end_logit: the logit of its last token.
    """

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        """The sum of both logits."""
        return self.start_logit + self.end_logit


@dataclass(frozen=True)
class FoundAnswers:
    """What was found for a question.

    Args:
        spans: the best spans with different texts, the best first; none if no token of the context has a number for
            its logits.
        nothing: the logits of [CLS], which mean "no answer", from the window where they are the least.
    """

    spans: list[AnswerSpan]
    nothing: AnswerSpan

    @property
    def null_odds(self) -> float:
        """How much more "no answer" scores than the best span."""
        return self.nothing.score - self.spans[0].score if self.spans else float("inf")


def find_answers(
    encoded: EncodedQuestions,
    logits: np.ndarray,
    contexts: Sequence[str],
    *,
    max_answer_length: int = 30,
    n_best: int = 20,
) -> list[FoundAnswers]:
    """Returns the best answers to each question.

    Args:
        encoded: the windows of all questions; each question has at least one.
        logits: float (tokens, 2), the logits of all tokens of the windows, as the first and as the last token.
        contexts: the context of each question.
        max_answer_length: the most tokens of an answer.
        n_best: the most answers to return.
    """
    offsets = encoded.windows.offsets
    candidates: list[list[tuple[float, int, int]]] = [[] for _ in contexts]  # score, first and last token
    least = np.full(len(contexts), np.inf)
    at = np.zeros(len(contexts), np.int64)
    for window, question in enumerate(encoded.question_of):
        start, end = int(offsets[window]), int(offsets[window + 1])
        nothing = float(logits[start].sum())
        if nothing < least[question]:
            least[question], at[question] = nothing, start
        inside = start + np.flatnonzero(encoded.characters[start:end, 0] >= 0)
        if len(inside):
            first = int(inside[0])
            own = logits[first : int(inside[-1]) + 1]
            candidates[question] += [
                (score, first + one, first + other)
                for score, one, other in _best_pairs(own, max_answer_length, 2 * n_best)
            ]
    found = []
    for index, context in enumerate(contexts):
        spans: dict[str, AnswerSpan] = {}
        for _, one, other in sorted(candidates[index], key=lambda each: (-each[0], each[1:])):
            start, end = int(encoded.characters[one, 0]), int(encoded.characters[other, 1])
            text = context[start:end]
            if text and text not in spans:
                spans[text] = AnswerSpan(text, start, end, float(logits[one, 0]), float(logits[other, 1]))
            if len(spans) == n_best:
                break
        place = at[index]
        found.append(
            FoundAnswers(
                list(spans.values()),
                AnswerSpan("", 0, 0, float(logits[place, 0]), float(logits[place, 1])),
            )
        )
    return found


def _best_pairs(logits: np.ndarray, longest: int, count: int) -> list[tuple[float, int, int]]:
    """Returns the best pairs of a first and a last token, in no order, as (score, first, last).

    Args:
        logits: float (tokens, 2), those of the context's tokens in a window.
        longest: the most tokens from the first to the last.
        count: number of pairs; fewer if there are not so many.
    """
    ends = np.concatenate([logits[:, 1], np.full(longest - 1, -np.inf, logits.dtype)])
    scores = (logits[:, :1] + sliding_window_view(ends, longest)).ravel()  # (tokens * longest,)
    best = np.argpartition(scores, max(len(scores) - count, 0))[-count:]
    best = best[np.isfinite(scores[best])]
    first, length = np.divmod(best, longest)
    return list(zip(scores[best].tolist(), first.tolist(), (first + length).tolist(), strict=True))
