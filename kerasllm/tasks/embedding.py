"""Sentence embedding: a vector for each text, near those of texts that mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from kerasllm.data.batches.pairs import HeldOutGroups
from kerasllm.data.examples.pairs import EncodedGroups
from kerasllm.data.sources.pairs import TextGroups
from kerasllm.embedding_losses import (
    CoSENTLoss,
    CosineSimilarityLoss,
    DistillationLoss,
    RankingLoss,
    TripletLoss,
)
from kerasllm.errors import InputError
from kerasllm.models import BertEncoder
from kerasllm.tasks.base import PredictionSettings, Task
from kerasllm.tasks.ordered_outputs import finite, predict_in_order
from kerasllm.tasks.regression import regression_figures
from kerasllm.tasks.sentence_encoder import SentenceEncoder

LossName = Literal["ranking", "cosent", "cosine", "triplet", "distillation"]
_LOSSES: dict[str, Any] = {
    "ranking": RankingLoss,
    "cosent": CoSENTLoss,
    "cosine": CosineSimilarityLoss,
    "triplet": TripletLoss,
    "distillation": DistillationLoss,
}
_BLOCK = 1024  # anchors that are compared with all texts at a time


class Embedding(Task):
    """A vector for each text, learnt from texts that belong together.

    Args:
        loss: the name of the loss.
        settings: arguments of the loss, such as `scale` and `matryoshka_dims`.
    """

    name: ClassVar[str] = "embedding"
    model_classes: ClassVar[tuple[type, ...]] = (BertEncoder,)
    monitors: ClassVar[tuple[str, ...]] = ("loss", "mrr@10", "recall@1", "spearman", "pearson")
    recipe: ClassVar[str] = "embed"
    example: ClassVar[tuple[str, ...]] = ("--text", "A text of your own.", "--output", "vectors.npy")

    def __init__(self, loss: LossName = "ranking", **settings: Any) -> None:
        self.loss, self.settings = loss, settings

    def make_loss(self, reduction: str = "mean_with_sample_weight") -> Any:
        """Returns the loss."""
        return _LOSSES[self.loss](reduction=reduction, **self.settings)

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the loss."""
        return {"loss": self.make_loss(reduction)}

    def evaluate(self, model: Any, batches: HeldOutGroups) -> dict[str, Any]:
        """Returns `loss`, the mean over batches of groups, `examples` and the figures of `group_figures`.

        Distillation has no held-out loss, as that would need the teacher's vectors; its `loss` is that of ranking.

        Args:
            model: an encoder.
            batches: the texts of the groups.
        """
        vectors = predict_in_order(model, batches)
        loss = RankingLoss() if self.loss == "distillation" else self.make_loss()
        total = count = 0.0
        for texts, labels in batches.compared():
            groups = len(texts) / batches.groups.members.shape[1]
            total += float(loss(labels, vectors[texts])) * groups
            count += groups
        return {"loss": finite(total / count), **group_figures(vectors, batches.groups)}

    @classmethod
    def predict(
        cls, model: Any, tokenizer: Any, texts: Sequence[tuple[str, ...]], settings: PredictionSettings
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns the `vector` of each text; see `Task.predict`."""
        if any(len(text) == 2 for text in texts):
            raise InputError("vectors are for single texts, not for pairs: leave out the tab")
        encoder = SentenceEncoder(model, tokenizer)
        vectors = encoder.encode(
            [text for (text,) in texts],
            sequence_length=settings.sequence_length,
            batch_size=settings.batch_size,
        )
        return [{"vector": vector.tolist()} for vector in vectors], encoder.num_truncated

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns one line with the first numbers of the vector and the text."""
        numbers = " ".join(f"{number:.4f}" for number in prediction["vector"][:4])
        return [f"{numbers} …\t{prediction['text']}"]


def teacher_targets(source: str, groups: TextGroups, encoded: EncodedGroups) -> np.ndarray:
    """Returns the vector that each distinct text is to have: a teacher's vector of its group's first text.

    Args:
        source: the teacher, a run, a model directory or a hub id.
        groups: the texts, such as sentences and their translations.
        encoded: the same texts as tokens.

    Raises:
        InputError: there is no such model.
    """
    vectors = SentenceEncoder.open(source).encode([group[0] for group in groups.texts])
    targets = np.zeros((len(encoded.texts), vectors.shape[1]), np.float32)
    for column in reversed(
        range(encoded.members.shape[1])
    ):  # a text that comes first somewhere has its own vector
        targets[encoded.members[:, column]] = vectors
    return targets


def group_figures(vectors: np.ndarray, groups: EncodedGroups) -> dict[str, Any]:
    """Returns how well the vectors of texts that belong together find one another.

    Args:
        vectors: (texts, dim), of the distinct texts.
        groups: the groups.

    Returns:
        `examples`, the number of groups; for graded pairs `pearson` and `spearman` of cosines and scores; for other
        groups `mrr@10` and `recall@1` of an anchor's positive among the texts of all groups but the anchors. The
        anchor's own text and its other positives are no candidates, and of equal cosines the positive's counts as the
        last.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(lengths, 1e-12)
    anchors, positives = groups.members[:, 0], groups.members[:, 1]
    if groups.scores is not None:
        cosines = np.einsum("ij,ij->i", vectors[anchors], vectors[positives])
        figures = regression_figures(groups.scores, cosines)
        return {name: figures[name] for name in ("examples", "pearson", "spearman")}
    candidates = np.unique(groups.members[:, 1:])
    place = np.zeros(len(vectors), np.int64)
    place[candidates] = np.arange(len(candidates))
    others: dict[int, list[int]] = {
        anchor: [anchor] for anchor in np.intersect1d(anchors, candidates).tolist()
    }
    for anchor, positive in zip(anchors.tolist(), positives.tolist(), strict=True):
        others.setdefault(anchor, []).append(positive)
    ranks = np.zeros(len(groups), np.int64)
    for start in range(0, len(groups), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(groups)))
        scores = vectors[anchors[rows]] @ vectors[candidates].T
        own = scores[np.arange(len(rows)), place[positives[rows]]]
        for row, anchor in enumerate(anchors[rows].tolist()):
            scores[row, place[others[anchor]]] = -np.inf
        ranks[rows] = 1 + (scores >= own[:, None]).sum(axis=1)
    return {
        "examples": len(groups),
        "mrr@10": float(np.where(ranks <= 10, 1 / ranks, 0.0).mean()),
        "recall@1": float((ranks == 1).mean()),
    }
