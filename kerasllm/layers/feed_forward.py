"""Dense projections and activations as functions of their weights."""

import keras
from keras import ops

from kerasllm import backend


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """Inputs @ kernel + bias, (..., in) → (..., out), as one product of two matrices.

    A `transposed` kernel is (out, in). The leading axes are folded into one first: XLA on the CPU runs a gradient
    that contracts over two axes (batch and length) as a plain loop, at half the speed of its matrix product.
    """
    shape = ops.shape(inputs)
    product = backend.dense(ops.reshape(inputs, (-1, shape[-1])), kernel, bias, transposed)
    return ops.reshape(product, (*shape[:-1], product.shape[-1]))


def activate(name: str, inputs):
    """Applies the activation `name`; "gelu" is the exact one (erf), "gelu_tanh" its approximation.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    return backend.fuse(_activate, inputs, name=name)


def _activate(inputs, name: str):
    inputs = backend.fence(inputs)
    if name in ("gelu", "gelu_tanh"):
        return backend.fence(backend.gelu(inputs, approximate=name == "gelu_tanh"))
    return backend.fence(keras.activations.get(name)(inputs))
