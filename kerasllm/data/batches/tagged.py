"""Batches for tagging: a label for each token, which counts at the first token of each word alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.batches.packing import PackedRows
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.tagged import EncodedWords


class TaggingBatches(ClassificationBatches):
    """Padded batches of windows of words, each word with a tag.

    Args:
        encoded: the windows.
        labels: int32 (words,), the tags of all words, sentence by sentence; None for prediction.
        settings: the other arguments of `ClassificationBatches`.

    An item is (inputs, labels, weights): inputs as in `ClassificationBatches`; int32 and float32 (batch, length), with
    the tag and 1 at the first token of each judged word, 0 elsewhere.
    """

    def __init__(self, encoded: EncodedWords, labels: np.ndarray | None, **settings: Any) -> None:
        self.words, self.word_labels = encoded, labels
        self.token_labels, self.token_weights = _by_token(encoded, labels)
        super().__init__(encoded.windows, None, **settings)

    def _targets(
        self, texts: np.ndarray, mask: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        labels, weights = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.float32)
        labels[mask], weights[mask] = self.token_labels[places], self.token_weights[places]
        return labels, weights


class PackedTaggingBatches(PackedClassificationBatches):
    """Packed batches of windows of words, each word with a tag; see `PackedClassificationBatches`.

    Args:
        encoded: the windows.
        labels: as for `TaggingBatches`.
        settings: the other arguments of `PackedClassificationBatches`.

    An item is (inputs, labels, weights): inputs as in `PackedClassificationBatches`, without `first_positions`; int32
    and float32 (rows, row_length), as in `TaggingBatches`.
    """

    def __init__(self, encoded: EncodedWords, labels: np.ndarray | None, **settings: Any) -> None:
        self.token_labels, self.token_weights = _by_token(encoded, labels)
        super().__init__(encoded.windows, None, **settings)

    def batch(self, step: int, extra_columns: int = 0) -> Any:
        """Makes all windows of optimizer step `step`, packed."""
        inputs, labels, weights = super().batch(step, extra_columns)
        del inputs["first_positions"]
        return inputs, labels, weights

    def _targets(
        self, texts: np.ndarray, packed: PackedRows, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return packed.by_token(self.token_labels[places]), packed.by_token(self.token_weights[places])


def _by_token(encoded: EncodedWords, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label and the weight of each token of the windows."""
    judged = encoded.words >= 0
    token_labels = np.zeros(len(encoded.words), np.int32)
    if labels is not None:
        if labels.shape != (encoded.num_words.sum(),):
            raise ValueError(f"labels of shape {labels.shape} for {encoded.num_words.sum()} words")
        token_labels[judged] = labels[encoded.words[judged]]
    return token_labels, judged.astype(np.float32)
