"""Batches for extractive question answering: the first and the last token of the answer in each window."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.questions import EncodedQuestions
from kerasllm.data.sources.squad import Questions


class QuestionBatches(ClassificationBatches):
    """Padded batches of windows, a window per row.

    Most windows of a long context fill a row, so that packing would save little; the few lengths that rows are padded
    to save more.

    Args:
        encoded: the windows.
        settings: the other arguments of `ClassificationBatches`.

    An item is (inputs, labels, weights): inputs as in `ClassificationBatches`; int32 and float32 (batch, 2), with the
    positions of the first and the last token of the answer, 0 without one, and 1 for a window.
    """

    def __init__(self, encoded: EncodedQuestions, **settings: Any) -> None:
        self.questions = encoded
        super().__init__(encoded.windows, None, **settings)

    def _targets(
        self, texts: np.ndarray, mask: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.questions.spans[texts], np.ones((len(texts), 2), np.float32)


class JudgedBatches(QuestionBatches):
    """Batches of all windows of a data set, with what its predictions are judged by.

    Args:
        encoded: the windows of `data`.
        data: the questions, with contexts and reference answers.
        chooses_threshold: whether the threshold for "no answer" is chosen on these questions.
        settings: the other arguments of `QuestionBatches`.
    """

    def __init__(
        self, encoded: EncodedQuestions, data: Questions, *, chooses_threshold: bool = True, **settings: Any
    ) -> None:
        self.data, self.chooses_threshold = data, chooses_threshold
        super().__init__(encoded, shuffle=False, **settings)
