"""Cross-entropy on TensorFlow; also in one with the projection to the vocabulary, a chunk of tokens at a time."""

import tensorflow as tf

from kerasllm.backend import formulas
from kerasllm.backend.tensorflow.fusion import fuse
from kerasllm.backend.tensorflow.gradients import custom_gradient


def cross_entropy(labels, logits):
    """Returns the losses, with a gradient of its own."""
    return _cross_entropy(labels, logits)


@custom_gradient
def _cross_entropy(labels, logits):
    losses, normalizer = fuse(_losses, labels, logits)
    return losses, lambda upstream: (None, fuse(_slope, labels, logits, normalizer, upstream))


def hits(labels, logits):
    """Returns the hits as one fused part."""
    return fuse(formulas.hits, labels, logits)


def _losses(labels, logits):
    """Returns the losses, and the normalizers, which `_slope` needs."""
    scores = tf.cast(logits, tf.float32)
    normalizer = tf.reduce_logsumexp(scores, axis=-1)
    return normalizer - tf.gather(scores, labels, axis=-1, batch_dims=len(labels.shape)), normalizer


def _slope(labels, logits, normalizer, upstream):
    """Returns the gradient of the logits, in their type: softmax less one-hot.

    The one-hot is a comparison, which XLA fuses: the gradient of a gather would be a scatter into as many zeros.
    """
    probabilities = tf.exp(tf.cast(logits, tf.float32) - normalizer[..., None])
    is_label = tf.range(tf.shape(logits)[-1]) == labels[..., None]
    slope = tf.where(is_label, probabilities - 1, probabilities) * upstream[..., None]
    return tf.cast(slope, logits.dtype)


def linear_cross_entropy(hidden, table, labels, weights, chunk_size: int, differentiable: bool = True):
    """Returns the sum, by a loop over the chunks."""
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
    """Returns the loss of a chunk, and its gradient of the logits."""
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
