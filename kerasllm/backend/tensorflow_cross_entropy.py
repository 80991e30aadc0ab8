"""Projection to the vocabulary and cross-entropy in one, a chunk of tokens at a time, for TensorFlow."""

import tensorflow as tf

from kerasllm.backend.tensorflow_fusion import fuse


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
    logits = tf.cast(logits, tf.float32)
    chosen = tf.gather(logits, labels, axis=1, batch_dims=1)
    losses = tf.where(weights == 0, 0.0, (tf.reduce_logsumexp(logits, axis=-1) - chosen) * weights)
    return tf.reduce_sum(losses)


def _loss_and_slope(logits, labels, weights):
    """The loss of a chunk, and its gradient with respect to the logits, in their type."""
    wide = tf.cast(logits, tf.float32)
    normalizer = tf.reduce_logsumexp(wide, axis=-1)
    chosen = tf.gather(wide, labels, axis=1, batch_dims=1)
    losses = tf.where(weights == 0, 0.0, (normalizer - chosen) * weights)
    probabilities = tf.exp(wide - normalizer[:, None])
    # A comparison that XLA fuses into the subtraction: the one-hot never lies in memory.
    is_label = tf.range(tf.shape(logits)[-1])[None, :] == labels[:, None]
    slope = tf.where(is_label, probabilities - 1, probabilities) * weights[:, None]
    return tf.reduce_sum(losses), tf.cast(slope, logits.dtype)


def _with_gradient(chunks, labels, weights):
    @tf.custom_gradient
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
