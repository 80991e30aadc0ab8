"""Reranking: a model that reads a query and a passage together scores the pair.

Reference: Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError
from kerasllm.models import BertClassifier, BertConfig, BertRegressor
from kerasllm.tasks.base import load_whole
from kerasllm.tasks.ordered_outputs import predict_in_order
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.loading import load_wordpiece


class Reranker:
    """A classifier of two classes, or a regressor, that was trained on pairs of a query and a passage.

    Args:
        source: a run, a model directory or a hub id.

    Raises:
        InputError: there is no such model, or it is of another kind.
    """

    def __init__(self, source: str) -> None:
        saved = open_model(source, BertConfig, load_wordpiece)
        if saved.model_class not in (BertClassifier, BertRegressor):
            raise InputError(
                f"{saved.directory}: is a {saved.model_class.__name__}; reranking needs a BertRegressor or a "
                "BertClassifier that was trained on pairs"
            )
        self.tokenizer, self.length = saved.tokenizer, saved.config.max_sequence_length
        self.model = load_whole(saved.model_class, saved.directory, {"classifier"})
        if getattr(self.model, "num_classes", 2) != 2:
            raise InputError(f"{saved.directory}: has {self.model.num_classes} classes; reranking needs two")

    def scores(self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32) -> np.ndarray:
        """Returns a score for each pair of a query and a passage, float32 (pairs,).

        It is the number of a regressor, or the logit of a classifier's second class minus that of the first.

        Args:
            pairs: the pairs.
            batch_size: number of pairs in a batch.
        """
        encoded = encode_texts(self.tokenizer, list(pairs), self.length)
        batches = ClassificationBatches(encoded, None, batch_size=min(batch_size, len(pairs)), shuffle=False)
        outputs = predict_in_order(self.model, batches)
        return outputs if outputs.ndim == 1 else outputs[:, 1] - outputs[:, 0]
