"""The losses of sentence embeddings against their definitions in NumPy, text by text."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import CoSENTLoss, CosineSimilarityLoss, DistillationLoss, RankingLoss, TripletLoss

RANDOM = np.random.default_rng(0)
ANCHORS, POSITIVES, NEGATIVES = (RANDOM.standard_normal((3, 5)).astype(np.float32) for _ in range(3))
SCORES = np.array([0.2, 0.9, 0.5], np.float32)


def laid_out(*columns, texts=None, order=None, scores=SCORES):
    """Vectors, labels and weights of groups, in any order, in two rows of slots with an empty one."""
    width, count = len(columns), len(columns[0])
    texts = np.arange(width * count).reshape(width, count) if texts is None else np.asarray(texts)
    vectors = np.concatenate(columns)
    labels = np.array(
        [
            [group, min(role, 2), texts[role, group], scores[group]]
            for role in range(width)
            for group in range(count)
        ],
        np.float32,
    )
    weights = (labels[:, 1] == 0).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(vectors)) if order is None else order
    vectors, labels, weights = vectors[order], labels[order], weights[order]
    empty = 2 - len(vectors) % 2
    vectors = np.concatenate([vectors, np.zeros((empty, vectors.shape[1]), np.float32)])
    labels = np.concatenate([labels, np.tile(np.float32([0, -1, 0, 0]), (empty, 1))])
    weights = np.concatenate([weights, np.zeros(empty, np.float32)])
    return [array.reshape(2, -1, *array.shape[1:]) for array in (labels, vectors, weights)]


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def ranking(anchors, positives, negatives=(), scale=20.0, left_out=()):
    """The mean cross-entropy; `left_out` are pairs of an anchor and a candidate."""
    losses = []
    candidates = [*positives, *negatives]
    for number, anchor in enumerate(anchors):
        logits = [
            scale * cosine(anchor, candidate)
            for index, candidate in enumerate(candidates)
            if (number, index) not in left_out
        ]
        losses.append(np.log(np.sum(np.exp(logits))) - scale * cosine(anchor, positives[number]))
    return np.mean(losses)


def value(loss, *arguments):
    return float(loss(*arguments))


def test_ranking_is_the_cross_entropy_among_all_positives():
    assert value(RankingLoss(), *laid_out(ANCHORS, POSITIVES)) == pytest.approx(
        ranking(ANCHORS, POSITIVES), rel=1e-5
    )
    both = (ranking(ANCHORS, POSITIVES, scale=5) + ranking(POSITIVES, ANCHORS, scale=5)) / 2
    symmetric = RankingLoss(scale=5, symmetric=True)
    assert value(symmetric, *laid_out(ANCHORS, POSITIVES)) == pytest.approx(both, rel=1e-5)


def test_hard_negatives_are_candidates_of_all_anchors():
    expected = ranking(ANCHORS, POSITIVES, NEGATIVES)
    assert value(RankingLoss(), *laid_out(ANCHORS, POSITIVES, NEGATIVES)) == pytest.approx(expected, rel=1e-5)


def test_an_equal_positive_is_no_negative():
    """Groups 0 and 2 share their positive; anchor 1 is the positive of group 0."""
    positives = POSITIVES.copy()
    positives[2] = positives[0]
    anchors = ANCHORS.copy()
    anchors[1] = positives[0]
    texts = [[0, 3, 2], [3, 4, 3]]
    expected = ranking(anchors, positives, left_out={(0, 2), (2, 0), (1, 0), (1, 2)})
    assert value(RankingLoss(), *laid_out(anchors, positives, texts=texts)) == pytest.approx(
        expected, rel=1e-5
    )


def test_triplets():
    cosines = [
        max(0, cosine(a, n) - cosine(a, p) + 0.5)
        for a, p, n in zip(ANCHORS, POSITIVES, NEGATIVES, strict=True)
    ]
    arguments = laid_out(ANCHORS, POSITIVES, NEGATIVES)
    assert value(TripletLoss(), *arguments) == pytest.approx(np.mean(cosines), rel=1e-5)
    distances = [
        max(0, np.linalg.norm(a - p) - np.linalg.norm(a - n) + 5)
        for a, p, n in zip(ANCHORS, POSITIVES, NEGATIVES, strict=True)
    ]
    euclidean = TripletLoss(margin=5.0, distance="euclidean")
    assert value(euclidean, *arguments) == pytest.approx(np.mean(distances), rel=1e-5)


def test_graded_pairs():
    cosines = np.array([cosine(a, p) for a, p in zip(ANCHORS, POSITIVES, strict=True)])
    arguments = laid_out(ANCHORS, POSITIVES)
    assert value(CosineSimilarityLoss(), *arguments) == pytest.approx(
        np.mean((cosines - SCORES) ** 2), rel=1e-5
    )
    terms = [
        np.exp(20 * (cosines[low] - cosines[high]))
        for low in range(3)
        for high in range(3)
        if SCORES[low] < SCORES[high]
    ]
    assert value(CoSENTLoss(), *arguments) == pytest.approx(np.log(1 + sum(terms)), rel=1e-5)


def test_matryoshka_sums_over_sizes():
    arguments = laid_out(ANCHORS, POSITIVES)
    expected = ranking(ANCHORS, POSITIVES) + ranking(ANCHORS[:, :2], POSITIVES[:, :2])
    assert value(RankingLoss(matryoshka_dims=(5, 2)), *arguments) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="the vectors have 5 numbers"):
        RankingLoss(matryoshka_dims=(6,))(*arguments)


def test_distillation_is_the_mean_squared_difference():
    weights = np.array([1, 1, 0], np.float32)
    expected = np.mean((ANCHORS[:2] - POSITIVES[:2]) ** 2)
    assert value(DistillationLoss(), POSITIVES, ANCHORS, weights) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [RankingLoss(), TripletLoss(distance="euclidean"), CoSENTLoss()])
def test_gradients_are_finite_with_empty_slots(loss):
    labels, vectors, weights = laid_out(ANCHORS, POSITIVES, NEGATIVES)
    variable = keras.Variable(vectors)
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda value: loss(labels, value, weights))(variable.value)
    elif keras.backend.backend() == "torch":
        loss(labels, variable, weights).backward()
        gradient = variable.value.grad
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = loss(labels, variable, weights)
        gradient = tape.gradient(total, variable.value)
    gradient = ops.convert_to_numpy(gradient)
    assert np.isfinite(gradient).all() and np.abs(gradient[weights > 0]).max() > 0
    assert (gradient[labels[..., 1] == -1] == 0).all()


def test_normalized_weights_give_the_mean_over_micro_batches():
    labels, vectors, weights = laid_out(ANCHORS, POSITIVES)
    mean = value(RankingLoss(), labels, vectors, weights)
    total = value(RankingLoss(reduction="sum"), labels, vectors, weights / weights.sum())
    assert total == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(
    "cls", [RankingLoss, TripletLoss, CosineSimilarityLoss, CoSENTLoss, DistillationLoss]
)
def test_settings_are_kept(cls):
    loss = cls(matryoshka_dims=(4, 2))
    again = cls.from_config(loss.get_config())
    assert type(again) is cls and again.get_config() == loss.get_config()
