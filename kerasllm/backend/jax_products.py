"""Matrix products by oneDNN within a program of JAX's, on a CPU that multiplies bfloat16."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kerasllm.backend import onednn

_active = False


@contextmanager
def by_onednn() -> Iterator[None]:
    """Within, `multiply` is oneDNN's for bfloat16."""
    global _active
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before


def multiply(left, right, transpose_left: bool = False, transpose_right: bool = False):
    """The product of (..., rows, inner) and (..., inner, columns), either of them transposed."""
    if _active and left.dtype == right.dtype == jnp.bfloat16:
        return _multiply(left, right, transpose_left, transpose_right)
    left = left.mT if transpose_left else left
    return jnp.matmul(left, right.mT if transpose_right else right)


def column_sums(matrix):
    """The sums over the rows of (rows, columns): on a CPU a product with ones, for XLA sums columns slowly."""
    if jax.default_backend() != "cpu":
        return jnp.sum(matrix, axis=0)
    return multiply(jnp.ones((1, matrix.shape[0]), matrix.dtype), matrix)[0]


def row_sums(matrix):
    """The sums over the last axis, which stays, of length one: as `column_sums`."""
    if jax.default_backend() != "cpu":
        return jnp.sum(matrix, axis=-1, keepdims=True)
    return jnp.matmul(matrix, jnp.ones((matrix.shape[-1], 1), matrix.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _multiply(left, right, transpose_left, transpose_right):
    rows = left.shape[-1 if transpose_left else -2]
    columns = right.shape[-2 if transpose_right else -1]
    result = jax.ShapeDtypeStruct((*left.shape[:-2], rows, columns), left.dtype)
    return _callback(_run(transpose_left, transpose_right), result)(left, right)


def _forward(left, right, transpose_left, transpose_right):
    return _multiply(left, right, transpose_left, transpose_right), (left, right)


def _backward(transpose_left, transpose_right, kept, upstream):
    left, right = kept
    if transpose_left:
        of_left = _multiply(right, upstream, transpose_right, True)
    else:
        of_left = _multiply(upstream, right, False, not transpose_right)
    if transpose_right:
        of_right = _multiply(upstream, left, True, transpose_left)
    else:
        of_right = _multiply(left, upstream, not transpose_left, False)
    return of_left, of_right


_multiply.defvjp(_forward, _backward)


@cache
def _run(transpose_left: bool, transpose_right: bool) -> Callable[..., None]:
    def run(context, product, left, right):
        left, right, product = (np.asarray(buffer) for buffer in (left, right, product))
        left = left.swapaxes(-1, -2) if transpose_left else left
        onednn.multiply(left, right.swapaxes(-1, -2) if transpose_right else right, product)

    return run


def _callback(function: Callable[..., None], result: Any) -> Callable[..., Any]:
    from jax.experimental.buffer_callback import buffer_callback

    return buffer_callback(function, result)
