"""Dense projections and activations as functions of their weights."""

import math

import keras
from keras import ops

from kerasllm import backend


def dense(inputs, kernel, bias=None):
    """Inputs @ kernel + bias, (..., in) → (..., out), as one product of two matrices.

    The leading axes are folded into one first: XLA on the CPU runs a gradient that contracts over two axes
    (batch and length) as a plain loop, at half the speed of its matrix product.
    """
    shape = ops.shape(inputs)
    product = backend.dense(ops.reshape(inputs, (-1, shape[-1])), kernel, bias)
    return ops.reshape(product, (*shape[:-1], product.shape[-1]))


def activate(name: str, inputs):
    """Applies the activation `name`; "gelu" is the exact one (erf), "gelu_tanh" its approximation.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    return backend.fuse(_activate, inputs, name=name)


def _activate(inputs, name: str):
    inputs = backend.fence(inputs)
    if name not in ("gelu", "gelu_tanh"):
        return backend.fence(keras.activations.get(name)(inputs))
    # Written out: the frameworks' own take a cube for a power, and the error function's complement, which costs more.
    wide = ops.cast(inputs, "float32")
    if name == "gelu":
        share = 1.0 + ops.erf(wide * 2**-0.5)
    else:
        share = 1.0 + ops.tanh((2 / math.pi) ** 0.5 * wide * (1.0 + 0.044715 * (wide * wide)))
    return backend.fence(ops.cast(0.5 * wide * share, inputs.dtype))
