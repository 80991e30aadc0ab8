"""Losses of sentence embeddings, for which the texts of a batch are compared with one another.

The texts of a batch may stand in any order and layout, packed or padded. The labels say which belong together: float32
(..., 4), with the number of the text's group (a pair or a triplet of the data), its role (`ANCHOR`, `POSITIVE` or
`NEGATIVE`, and `NO_TEXT` in an empty slot), a number that equal texts share, and the score of a graded pair. The
weights (...) are 1 for anchors and 0 for all others, so that a loss is a mean over groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kerasllm.layers.pooling import unit_length

NO_TEXT, ANCHOR, POSITIVE, NEGATIVE = -1, 0, 1, 2
GROUP, ROLE, TEXT, SCORE = range(4)
"""The columns of the labels."""

_NONE = -1e9  # the logit of a candidate that does not count


class _EmbeddingLoss(keras.losses.Loss):
    divides_by_all = True  # as it is given the vectors of all processes
    """The base class, which flattens a batch to a list of texts.

    Args:
        matryoshka_dims: sizes to which the vectors are cut; the loss is the sum over these sizes, so that the first
            coordinates alone make good vectors. None means whole vectors only.
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized (see `kerasllm.losses`).
        name: the loss's name.

    Reference: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147, for `matryoshka_dims`.
    """

    def __init__(
        self,
        *,
        matryoshka_dims: Sequence[int] | None = None,
        reduction: str = "mean_with_sample_weight",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.matryoshka_dims = tuple(matryoshka_dims) if matryoshka_dims else None
        if any(dim < 1 for dim in self.matryoshka_dims or ()):
            raise ValueError(f"matryoshka_dims are {matryoshka_dims}, they must be at least 1")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns the loss, a scalar."""
        vectors = ops.cast(ops.convert_to_tensor(y_pred), "float32")
        width = vectors.shape[-1]
        if any(dim > width for dim in self.matryoshka_dims or ()):
            raise ValueError(f"matryoshka_dims are {self.matryoshka_dims}, the vectors have {width} numbers")
        vectors = ops.reshape(vectors, (-1, width))
        labels = ops.cast(ops.convert_to_tensor(y_true), "float32")
        labels = ops.reshape(labels, (-1, labels.shape[-1]))
        if sample_weight is None:
            weights = self._default_weights(labels)
        else:
            weights = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return sum(self._total(labels, vectors[:, :dim], weights) for dim in self.matryoshka_dims or (width,))

    def _default_weights(self, labels):
        return ops.cast(labels[:, ROLE] == ANCHOR, "float32")

    def _total(self, labels, vectors, weights):
        """Returns the reduced loss of vectors (texts, width)."""
        losses = ops.where(weights == 0, 0.0, self.losses(labels, vectors) * weights)
        total = ops.sum(losses)
        return total if self.reduction == "sum" else total / ops.maximum(ops.sum(weights), 1e-7)

    def losses(self, labels, vectors):
        """Returns the losses of all texts (texts,), of which those of anchors count.

        Args:
            labels: float32 (texts, 4).
            vectors: float32 (texts, width), of any length.
        """
        raise NotImplementedError

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "matryoshka_dims": self.matryoshka_dims,
            "reduction": self.reduction,
            "name": self.name,
        }


def _cosines(vectors):
    """Returns the cosines of all texts with one another, (texts, texts)."""
    vectors = unit_length(vectors)
    return ops.matmul(vectors, ops.transpose(vectors))


def _together(labels, role: int):
    """Returns for each text (rows) which texts (columns) have a role in its group, boolean (texts, texts)."""
    groups, roles = labels[:, GROUP], labels[:, ROLE]
    return ops.logical_and(groups[:, None] == groups[None], (roles == role)[None])


def _picked(matrix, chosen):
    """Returns the sum over the chosen entries of each row."""
    return ops.sum(ops.where(chosen, matrix, 0.0), axis=1)


@keras.saving.register_keras_serializable(package="kerasllm")
class RankingLoss(_EmbeddingLoss):
    """Multiple negatives ranking: the cross-entropy of an anchor's positive among all texts of the batch.

    The candidates are the positives of all groups and all hard negatives. A candidate with the same text as the
    anchor's own positive, or as the anchor, is left out, as it is no negative.

    Args:
        scale: factor of the cosines, the inverse of a temperature.
        symmetric: whether the positive must also find its anchor among all anchors; the loss is then the mean of both
            directions.
        matryoshka_dims: as for all losses here.
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with labels (..., 4), vectors (..., width) and weights (...), as the docstring of this module says. It
    returns a scalar in nats.

    Reference: Henderson et al. 2017, https://arxiv.org/abs/1705.00652; van den Oord et al. 2018,
    https://arxiv.org/abs/1807.03748 (InfoNCE); Gao et al. 2021, https://arxiv.org/abs/2104.08821 (SimCSE).
    """

    def __init__(self, scale: float = 20.0, symmetric: bool = False, **settings) -> None:
        super().__init__(**settings)
        if scale <= 0:
            raise ValueError(f"scale is {scale}, it must be above 0")
        self.scale, self.symmetric = scale, symmetric

    def losses(self, labels, vectors):
        """See the class."""
        logits = self.scale * _cosines(vectors)
        forward = self._direction(labels, logits, ANCHOR, POSITIVE)
        if not self.symmetric:
            return forward
        return (forward + self._direction(labels, logits, POSITIVE, ANCHOR)) / 2

    def _direction(self, labels, logits, start: int, target: int):
        """Returns for each anchor the loss of finding the text of one role from that of another."""
        roles, texts = labels[:, ROLE], labels[:, TEXT]
        own = _together(labels, target)
        if start != ANCHOR:  # the row of each anchor becomes that of its positive
            positives = ops.cast(_together(labels, start), "float32")
            logits = ops.matmul(positives, logits)
            starts = ops.matmul(positives, texts[:, None])[:, 0]
        else:
            starts = texts
        targets = _picked(texts[None], own)
        if target == POSITIVE:
            candidates = ops.logical_or(roles == POSITIVE, roles == NEGATIVE)
        else:
            candidates = roles == target
        equal = ops.logical_or(texts[None] == targets[:, None], texts[None] == starts[:, None])
        counted = ops.logical_or(ops.logical_and(candidates[None], ops.logical_not(equal)), own)
        return ops.logsumexp(ops.where(counted, logits, _NONE), axis=1) - _picked(logits, own)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"scale": self.scale, "symmetric": self.symmetric}


@keras.saving.register_keras_serializable(package="kerasllm")
class TripletLoss(_EmbeddingLoss):
    """The hinge of an anchor's distances to its positive and to its hard negative.

    Args:
        margin: how much farther the negative must be; about 0.5 for cosines, 5 for Euclidean distances of vectors that
            are not normalized.
        distance: "cosine", which is 1 minus the cosine, or "euclidean".
        matryoshka_dims: as for all losses here.
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with labels, vectors and weights, as the docstring of this module says. It returns a scalar.

    Reference: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3.
    """

    def __init__(self, margin: float = 0.5, distance: str = "cosine", **settings) -> None:
        super().__init__(**settings)
        if distance not in ("cosine", "euclidean"):
            raise ValueError(f"distance is {distance!r}: choose cosine or euclidean")
        self.margin, self.distance = margin, distance

    def losses(self, labels, vectors):
        """See the class."""
        if self.distance == "cosine":
            distances = 1 - _cosines(vectors)
        else:
            squares = ops.sum(ops.square(vectors), axis=-1)
            products = ops.matmul(vectors, ops.transpose(vectors))
            distances = ops.sqrt(ops.maximum(squares[:, None] + squares[None] - 2 * products, 1e-12))
        negative = _together(labels, NEGATIVE)
        hinge = _picked(distances, _together(labels, POSITIVE))[:, None] - distances + self.margin
        count = ops.maximum(ops.sum(ops.cast(negative, "float32"), axis=1), 1.0)
        return _picked(ops.relu(hinge), negative) / count

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"margin": self.margin, "distance": self.distance}


@keras.saving.register_keras_serializable(package="kerasllm")
class CosineSimilarityLoss(_EmbeddingLoss):
    """The squared difference of a graded pair's cosine and its score.

    Call it with labels, vectors and weights, as the docstring of this module says. It returns a scalar.

    Reference: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3 (regression objective).
    """

    def losses(self, labels, vectors):
        """See the class."""
        cosines = _picked(_cosines(vectors), _together(labels, POSITIVE))
        return ops.square(cosines - labels[:, SCORE])


@keras.saving.register_keras_serializable(package="kerasllm")
class CoSENTLoss(_EmbeddingLoss):
    """The order of graded pairs: a pair with a higher score must have the higher cosine.

    It is log(1 + sum exp(scale * (l - h))) over all pairs of pairs whose scores differ, where h is the cosine of the
    one with the higher score, and l that of the other. Only the order of the scores matters.

    Args:
        scale: factor of the cosines.
        matryoshka_dims: as for all losses here.
        reduction: has no effect, as the loss is no mean over pairs.
        name: the loss's name.

    Call it with labels, vectors and weights, as the docstring of this module says. It returns a scalar.

    Reference: Su 2022, https://kexue.fm/archives/8847; Huang et al. 2024, https://doi.org/10.1109/TASLP.2024.3402087.
    """

    def __init__(self, scale: float = 20.0, **settings) -> None:
        super().__init__(**settings)
        if scale <= 0:
            raise ValueError(f"scale is {scale}, it must be above 0")
        self.scale = scale

    def _total(self, labels, vectors, weights):
        cosines = self.scale * _picked(_cosines(vectors), _together(labels, POSITIVE))
        scores, real = labels[:, SCORE], weights > 0
        differs = ops.logical_and(scores[:, None] < scores[None], ops.logical_and(real[:, None], real[None]))
        exponents = ops.where(differs, cosines[:, None] - cosines[None], _NONE)
        return ops.logsumexp(ops.concatenate([ops.zeros((1,)), ops.reshape(exponents, (-1,))], axis=0))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"scale": self.scale}


@keras.saving.register_keras_serializable(package="kerasllm")
class DistillationLoss(_EmbeddingLoss):
    """The mean squared difference from a teacher's vectors; for a translation the target is its source's vector.

    Call it with the teacher's vectors (..., width) as labels, vectors of the same shape and weights (...), 1 for texts
    and 0 for empty slots. It returns a scalar.

    Reference: Reimers and Gurevych 2020, https://arxiv.org/abs/2004.09813.
    """

    def _default_weights(self, labels):
        return ops.ones_like(labels[:, 0])

    def losses(self, labels, vectors):
        """See the class."""
        return ops.mean(ops.square(vectors - labels[:, : vectors.shape[-1]]), axis=-1)
