"""Extractive question answering: the answer to a question is a span of its context."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kerasllm.data.batches.questions import JudgedBatches
from kerasllm.errors import InputError
from kerasllm.models import BertQuestionAnswering
from kerasllm.tasks.answer_figures import answer_figures, answer_scores, best_null_threshold
from kerasllm.tasks.answer_spans import FoundAnswers, find_answers
from kerasllm.tasks.base import PredictionSettings, Task
from kerasllm.tasks.ordered_outputs import finite, predict_tokens
from kerasllm.tasks.reading import ReadingSettings, answers, chosen_threshold, softmax
from kerasllm.tasks.saved_model import SavedModel


class QuestionAnswering(Task):
    """Answers that are spans of a context.

    Args:
        may_lack_answer: whether questions may have no answer, as in SQuAD 2.0.
        max_answer_length: the most tokens of an answer.
        n_best: number of answers to a question in nbest_predictions.json.

    Attributes:
        null_threshold: the odds above which a question counts as having no answer; 0 until `evaluate` has chosen it.
    """

    name: ClassVar[str] = "question_answering"
    model_classes: ClassVar[tuple[type, ...]] = (BertQuestionAnswering,)
    monitors: ClassVar[tuple[str, ...]] = ("loss", "exact_match", "f1")
    heads: ClassVar[frozenset[str]] = frozenset({"answer_head"})
    recipe: ClassVar[str] = "answer"
    example: ClassVar[tuple[str, ...]] = ("--context", "text.txt", "--question", "A question of your own?")

    def __init__(
        self, may_lack_answer: bool = False, *, max_answer_length: int = 30, n_best: int = 20
    ) -> None:
        self.may_lack_answer = may_lack_answer
        self.max_answer_length, self.n_best = max_answer_length, n_best
        self.null_threshold = 0.0
        self._kept: dict[str, dict[str, Any]] = {}

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the cross-entropy of the answers' first and last tokens."""
        return {"loss": model.default_loss(reduction)}

    def evaluate(self, model: Any, batches: JudgedBatches) -> dict[str, Any]:
        """Returns `loss`, `examples` and the figures of `answer_figures`; sets `kept_predictions`.

        `loss` is the mean cross-entropy of a window's first and last token among its tokens, without padding, in nats.
        If questions may have no answer, there are also `null_threshold`, and `exact_match_at_zero` and `f1_at_zero`,
        the figures with a threshold of 0. The threshold is the one with the best F1 on batches that choose it, and the
        one chosen before for others, so that it is never chosen on test data.

        Args:
            model: a model that returns logits (batch, length, 2).
            batches: the windows of all questions.
        """
        data = batches.data
        logits = predict_tokens(model, batches)
        found = find_answers(
            batches.questions,
            logits,
            [data.contexts[index] for index in data.context_of],
            max_answer_length=self.max_answer_length,
            n_best=self.n_best,
        )
        references = [[answer.text for answer in own] for own in data.answers]
        answerable = np.array([bool(own) for own in data.answers])
        spans = [each.spans[0].text if each.spans else "" for each in found]
        scores = _scores(spans, references)
        figures: dict[str, Any] = {
            "examples": len(data),
            "loss": finite(_loss(logits, batches, data.spans[:, 0] != -2)),
        }
        predicted = spans
        if self.may_lack_answer:
            odds = np.array([each.null_odds for each in found])
            if batches.chooses_threshold:
                self.null_threshold = best_null_threshold(odds, scores[:, 1], answerable)
            at_zero = answer_figures(_scores(_or_nothing(spans, odds > 0), references), answerable)
            predicted = _or_nothing(spans, odds > self.null_threshold)
            scores = _scores(predicted, references)
            figures["null_threshold"] = finite(self.null_threshold)
            figures |= {f"{name}_at_zero": at_zero[name] for name in ("exact_match", "f1")}
        self._keep(data.ids, predicted, found)
        return figures | answer_figures(scores, answerable)

    def _keep(self, ids: Sequence[str], predicted: Sequence[str], found: Sequence[FoundAnswers]) -> None:
        """Sets `kept_predictions`."""
        self._kept = {
            "predictions": dict(zip(ids, predicted, strict=True)),
            "nbest_predictions": {name: self._n_best(each) for name, each in zip(ids, found, strict=True)},
        }
        if self.may_lack_answer:
            self._kept["null_odds"] = {
                name: finite(each.null_odds) for name, each in zip(ids, found, strict=True)
            }

    def _n_best(self, found: FoundAnswers) -> list[dict[str, Any]]:
        """Returns the entry of a question in nbest_predictions.json."""
        spans = list(found.spans)
        if self.may_lack_answer or not spans:
            spans = sorted([*spans, found.nothing], key=lambda span: -span.score)
        shares = softmax(np.array([span.score for span in spans]))
        return [
            {
                "text": span.text,
                "probability": float(share),
                "start_logit": span.start_logit,
                "end_logit": span.end_logit,
            }
            for span, share in zip(spans, shares, strict=True)
        ]

    def kept_predictions(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns predictions and nbest_predictions, and null_odds if questions may have no answer.

        They are the files that SQuAD's scripts write and judge.
        """
        return self._kept

    @classmethod
    def load(cls, saved: SavedModel) -> Any:
        """Returns the model of a directory, with the `null_threshold` that its run has chosen."""
        model = super().load(saved)
        model.null_threshold = chosen_threshold(saved.directory)
        return model

    @classmethod
    def predict(
        cls, model: Any, tokenizer: Any, texts: Sequence[tuple[str, ...]], settings: PredictionSettings
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns the answer to each question, for pairs of a question and a context.

        A prediction has `answer`, `score`, which is the answer's share among the best ones, and `start` and
        `end` in characters of the context. The answer is empty if the run has chosen to give none. See `Task.predict`.
        """
        if not all(len(text) == 2 for text in texts):
            raise InputError(
                "questions are answered from a context: give pairs, separated by a tab on the command line"
            )
        reading = ReadingSettings(
            sequence_length=settings.sequence_length,
            document_stride=min(ReadingSettings.document_stride, settings.sequence_length // 3),
            batch_size=settings.batch_size,
            null_threshold=getattr(model, "null_threshold", None),
        )
        questions, contexts = zip(*texts, strict=True)
        found = answers(model, tokenizer, questions, [[context] for context in contexts], reading)
        predictions = [shown(each[0]) if each else {"answer": "", "score": 0.0} for each in found]
        return predictions, 0  # long contexts are divided, not cut

    @classmethod
    def record(cls, text: tuple[str, ...], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the question and its answer as one line of a file of predictions."""
        return {"question": text[0], **prediction}

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns one line: the answer, its score and place, and the question."""
        place = f"{prediction['start']}-{prediction['end']}" if prediction["answer"] else "no answer"
        return [
            "\t".join([prediction["answer"], f"{prediction['score']:.4f}", place, prediction["question"]])
        ]


def shown(answer: Any) -> dict[str, Any]:
    """Returns an answer as a prediction shows it.

    Args:
        answer: a `FoundAnswer`.
    """
    found = {"answer": answer.text, "score": round(answer.probability, 4)}
    return found | ({"start": answer.start, "end": answer.end} if answer.text else {})


def _scores(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the exact match and the F1 of each prediction, float64 (questions, 2)."""
    return np.array([answer_scores(text, own) for text, own in zip(predicted, references, strict=True)])


def _or_nothing(texts: Sequence[str], nothing: np.ndarray) -> list[str]:
    """Returns the texts, "" where `nothing` is true."""
    return ["" if empty else text for text, empty in zip(texts, nothing, strict=True)]


def _loss(logits: np.ndarray, batches: JudgedBatches, known: np.ndarray) -> float:
    """Returns the mean cross-entropy of the windows whose answers have a known place, in nats."""
    encoded = batches.questions
    losses = [
        np.log(np.exp(own - own.max(axis=0)).sum(axis=0)) + own.max(axis=0) - own[span, [0, 1]]
        for (start, end), span, question in zip(
            itertools.pairwise(encoded.windows.offsets), encoded.spans, encoded.question_of, strict=True
        )
        if known[question]
        for own in [logits[start:end].astype(np.float64)]
    ]
    return float(np.mean(losses)) if losses else 0.0
