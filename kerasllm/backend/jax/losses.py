"""Cross-entropy on JAX; also in one with the projection to the vocabulary, a chunk of tokens at a time."""

from functools import partial

import jax
import jax.numpy as jnp

from kerasllm.backend.formulas import hits  # noqa: F401
from kerasllm.backend.jax.products import multiply, row_sums


def cross_entropy(labels, logits):
    """Returns the losses, with a gradient of its own."""
    return _cross_entropy(labels, logits)


@jax.custom_vjp
def _cross_entropy(labels, logits):
    return _losses(labels, logits)[0]


def _losses(labels, logits):
    """Returns the losses, and the softmax's numerators, its denominators (..., 1) and the highest logits (..., 1).

    The numerators are made once and summed by a product, which is faster on a CPU than XLA's own sum of them. The
    highest logit is sought in the logits' own type.
    """
    highest = jnp.max(logits, axis=-1, keepdims=True).astype(jnp.float32)
    numerators = jnp.exp(logits.astype(jnp.float32) - highest)
    denominators = row_sums(numerators)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1).astype(jnp.float32)
    return (jnp.log(denominators) + (highest - chosen))[..., 0], (numerators, denominators, highest)


def _slope(labels, probabilities, upstream):
    """Returns the gradient of the logits in float32, softmax less one-hot.

    The one-hot is a comparison, which XLA fuses: the gradient of a gather would be a scatter into as many zeros.
    """
    is_label = jnp.arange(probabilities.shape[-1]) == labels[..., None]
    return jnp.where(is_label, probabilities - 1, probabilities) * upstream[..., None]


def _with_kept(labels, logits):
    losses, (_, denominators, highest) = _losses(labels, logits)
    return losses, (labels, logits, jnp.log(denominators) + highest)


def _gradient(kept, upstream):
    labels, logits, normalizer = kept
    probabilities = jnp.exp(logits.astype(jnp.float32) - normalizer)
    return None, _slope(labels, probabilities, upstream).astype(logits.dtype)


_cross_entropy.defvjp(_with_kept, _gradient)


def linear_cross_entropy(hidden, table, labels, weights, chunk_size: int, differentiable: bool = True):
    """Returns the sum; XLA itself finds out whether gradients are asked for."""
    tokens = hidden.shape[0]
    chunks = -(-tokens // chunk_size)
    padding = chunks * chunk_size - tokens
    if padding:
        hidden = jnp.pad(hidden, ((0, padding), (0, 0)))
        labels, weights = jnp.pad(labels, (0, padding)), jnp.pad(weights, (0, padding))
    split = (chunks, chunk_size)
    return _chunked(hidden.reshape(*split, -1), table, labels.reshape(split), weights.reshape(split))


@jax.custom_vjp
def _chunked(hidden, table, labels, weights):
    matrix = table.astype(hidden.dtype)
    step = partial(_loss_of_chunk, matrix)
    return _over_chunks(
        lambda total, chunk: (total + step(chunk)[0], None), jnp.float32(0), hidden, labels, weights
    )[0]


def _loss_of_chunk(matrix, chunk):
    hidden, labels, weights = chunk
    logits = multiply(hidden, matrix, transpose_right=True)
    losses, (numerators, denominators, _) = _losses(labels, logits)
    return jnp.sum(jnp.where(weights == 0, 0.0, losses * weights)), numerators, denominators


def _forward(hidden, table, labels, weights):
    matrix = table.astype(hidden.dtype)

    def step(carry, chunk):
        total, of_table = carry
        part, labels, weights = chunk
        loss, numerators, denominators = _loss_of_chunk(matrix, chunk)
        slope = _slope(labels, numerators * (1 / denominators), weights).astype(matrix.dtype)
        of_table = of_table + multiply(slope, part, transpose_left=True).astype(jnp.float32)
        return (total + loss, of_table), multiply(slope, matrix)

    start = (jnp.float32(0), jnp.zeros(table.shape, jnp.float32))
    (total, of_table), of_hidden = _over_chunks(step, start, hidden, labels, weights)
    return total, (of_hidden, of_table.astype(table.dtype))


def _over_chunks(step, start, *arrays):
    if arrays[0].shape[0] == 1:
        carry, result = step(start, tuple(array[0] for array in arrays))
        return carry, None if result is None else result[None]
    return jax.lax.scan(step, start, arrays)


def _backward(gradients, upstream):
    of_hidden, of_table = gradients
    return (
        of_hidden * upstream.astype(of_hidden.dtype),
        of_table * upstream.astype(of_table.dtype),
        None,
        None,
    )


_chunked.defvjp(_forward, _backward)
