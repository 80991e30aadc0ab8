"""Cross-entropy for TensorFlow; also in one with the projection to the vocabulary, a chunk of tokens at a time."""

import tensorflow as tf

from kerasllm.backend.tensorflow.fusion import fuse, is_fusing
from kerasllm.backend.tensorflow.gradients import custom_gradient

_NOTE = "_kerasllm_hits"


def cross_entropy(labels, logits):
    """The cross-entropy of each label, float32 in nats: int32 (...), logits (..., classes) → (...)."""
    if not is_fusing():
        return _cross_entropy(labels, logits)
    losses, hits = _cross_entropy_and_hits(labels, logits)
    setattr(logits, _NOTE, (labels, hits))
    return losses


def recall_hits(labels, logits):
    """In a step that is compiled in parts, the hits that `cross_entropy` found for these very tensors; else None."""
    known, hits = getattr(logits, _NOTE, (None, None))
    return hits if known is labels else None


@custom_gradient
def _cross_entropy(labels, logits):
    losses, normalizer = _losses(labels, logits)
    return losses, lambda upstream: (None, _slope(labels, logits, normalizer, upstream))


@custom_gradient
def _cross_entropy_and_hits(labels, logits):
    losses, normalizer, found = fuse(_losses_and_hits, labels, logits)
    return (losses, found), lambda upstream, _: (None, fuse(_slope, labels, logits, normalizer, upstream))


def _losses_and_hits(labels, logits):
    """What `_losses` gives; and 1 for a label whose logit is the highest, 1/n where n share that, else 0.

    Both need the logits in float32 and the highest of them.
    """
    scores = tf.cast(logits, tf.float32)
    highest = tf.reduce_max(scores, axis=-1, keepdims=True)
    normalizer = tf.math.log(tf.reduce_sum(tf.exp(scores - highest), axis=-1)) + highest[..., 0]
    chosen = tf.gather(scores, labels, axis=-1, batch_dims=len(labels.shape))
    ties = tf.reduce_sum(tf.cast(scores == highest, tf.float32), axis=-1)
    found = tf.where(chosen == highest[..., 0], 1 / tf.maximum(ties, 1), 0.0)
    return normalizer - chosen, normalizer, found


def _losses(labels, logits):
    """The losses, and the normalizers, which `_slope` needs."""
    scores = tf.cast(logits, tf.float32)
    normalizer = tf.reduce_logsumexp(scores, axis=-1)
    return normalizer - tf.gather(scores, labels, axis=-1, batch_dims=len(labels.shape)), normalizer


def _slope(labels, logits, normalizer, upstream):
    """The gradient of the logits, in their type: softmax less one-hot.

    The latter is a comparison, which XLA fuses: the gradient of a gather would be a scatter into as many zeros.
    """
    probabilities = tf.exp(tf.cast(logits, tf.float32) - normalizer[..., None])
    is_label = tf.range(tf.shape(logits)[-1]) == labels[..., None]
    slope = tf.where(is_label, probabilities - 1, probabilities) * upstream[..., None]
    return tf.cast(slope, logits.dtype)


def linear_cross_entropy(hidden, table, labels, weights, chunk_size: int, differentiable: bool = True):
    """The weighted sum of the cross-entropies of `labels` under the logits `hidden @ table.T`.

    Only one chunk of logits exists at a time. Where a gradient is asked for, the chunk's share of it is taken
    while its logits are there, so that they need not be made twice.

    Args:
        hidden: (tokens, hidden_dim).
        table: (vocabulary, hidden_dim).
        labels: int (tokens,).
        weights: float32 (tokens,); no gradient flows to them.
        chunk_size: tokens at a time.
        differentiable: whether gradients may be asked for.

    Returns:
        A float32 scalar in nats.
    """
    tokens = tf.shape(hidden)[0] if hidden.shape[0] is None else hidden.shape[0]
    chunks = -(-tokens // chunk_size)
    padding = chunks * chunk_size - tokens
    hidden = tf.reshape(tf.pad(hidden, [[0, padding], [0, 0]]), [chunks, chunk_size, hidden.shape[-1]])
    labels = tf.reshape(tf.pad(tf.cast(labels, tf.int32), [[0, padding]]), [chunks, chunk_size])
    weights = tf.reshape(tf.pad(weights, [[0, padding]]), [chunks, chunk_size])
    table = tf.convert_to_tensor(table)  # of a variable: a custom gradient takes none
    run = _with_gradient(chunks, labels, weights) if differentiable else None
    return run(hidden, table) if run else _loss(chunks, hidden, table, labels, weights)


def _loss(chunks, hidden, table, labels, weights):
    matrix = tf.cast(table, hidden.dtype)

    def step(index, total):
        logits = tf.matmul(hidden[index], matrix, transpose_b=True)
        return index + 1, total + fuse(_loss_of_chunk, logits, labels[index], weights[index])

    return tf.while_loop(lambda index, _: index < chunks, step, (0, 0.0), parallel_iterations=1)[1]


def _loss_of_chunk(logits, labels, weights):
    return _loss_and_normalizer(logits, labels, weights)[0]


def _loss_and_normalizer(logits, labels, weights):
    losses, normalizer = _losses(labels, logits)
    return tf.reduce_sum(tf.where(weights == 0, 0.0, losses * weights)), normalizer


def _loss_and_slope(logits, labels, weights):
    """The loss of a chunk, and its gradient of the logits."""
    loss, normalizer = _loss_and_normalizer(logits, labels, weights)
    return loss, _slope(labels, logits, normalizer, weights)


def _with_gradient(chunks, labels, weights):
    @custom_gradient
    def run(hidden, table):
        matrix = tf.cast(table, hidden.dtype)

        def step(index, total, of_table, of_hidden):
            part = hidden[index]
            logits = tf.matmul(part, matrix, transpose_b=True)
            loss, slope = fuse(_loss_and_slope, logits, labels[index], weights[index])
            of_table += tf.cast(tf.matmul(slope, part, transpose_a=True), table.dtype)
            of_hidden = of_hidden.write(index, tf.matmul(slope, matrix))
            return index + 1, total + loss, of_table, of_hidden

        slopes = tf.TensorArray(hidden.dtype, size=chunks, element_shape=hidden.shape[1:])
        _, total, of_table, slopes = tf.while_loop(
            lambda index, *_: index < chunks,
            step,
            (0, 0.0, tf.zeros_like(table), slopes),
            parallel_iterations=1,
        )
        of_hidden = slopes.stack()

        def backward(upstream):
            return of_hidden * tf.cast(upstream, hidden.dtype), of_table * tf.cast(upstream, table.dtype)

        return total, backward

    return run
