"""Formulas in Keras' own operations, which the backends share; each computes in float32 in between."""

import math

from keras import ops


def gelu(inputs, approximate: bool):
    """Returns the exact GELU (erf), or its approximation by tanh.

    The formula is written out because JAX and TensorFlow take a cube for a power and the complement of the error
    function, which cost more.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    wide = ops.cast(inputs, "float32")
    if approximate:
        share = 1.0 + ops.tanh((2 / math.pi) ** 0.5 * wide * (1.0 + 0.044715 * (wide * wide)))
    else:
        share = 1.0 + ops.erf(wide * 2**-0.5)
    return ops.cast(0.5 * wide * share, inputs.dtype)


def rms_norm(inputs, scale, epsilon: float):
    """Returns `inputs` over the root of their mean square along the last axis, times `scale`."""
    wide = ops.cast(inputs, "float32")
    normal = wide * ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + epsilon)
    return ops.cast(normal * ops.cast(scale, "float32"), inputs.dtype)


def rotate(heads, cosine, sine):
    """Returns `heads` with coordinate i turned towards i + head_dim / 2, for each i below head_dim / 2."""
    wide = ops.cast(heads, "float32")
    half = wide.shape[-1] // 2
    first, second = wide[..., :half], wide[..., half:]
    turned = ops.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return ops.cast(turned, heads.dtype)


def hits(labels, logits):
    """Returns 1 where the label's logit is the highest of all, 1/n where n share that, else 0.

    An argmax is several times as slow under XLA on a CPU. Ties, common in bfloat16, count as a fair draw among them
    would.
    """
    scores = ops.cast(logits, "float32")  # changes no comparison, and is faster on a CPU
    highest = ops.max(scores, axis=-1, keepdims=True)
    ties = ops.sum(ops.cast(scores == highest, "float32"), axis=-1)
    chosen = ops.take_along_axis(scores, labels[..., None], axis=-1)
    return ops.where((chosen == highest)[..., 0], 1.0 / ops.maximum(ties, 1.0), 0.0)
