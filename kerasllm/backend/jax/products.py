"""JAX's matrix products in a training step; on a CPU by oneDNN, where the package that brings it is installed.

XLA's own take half as long again in float32 where a gradient transposes an operand, and two to three times as long in
bfloat16. A product is called back from the compiled step with pointers, not copies: 12 microseconds.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerasllm.backend.jax import onednn


@cache
def on_cpu() -> bool:
    """Returns whether the devices are CPUs; asked at the first use, as processes join one another before that."""
    return jax.default_backend() == "cpu"


_LEAST_WORK = {"float32": 2**27, "bfloat16": 2**24}
"""Multiplications of a product below which it is not worth the call, and two libraries' threads side by side."""

_FEW_ROWS = 256
"""Rows of a product, to which the other factor is better put first, see `few_rows`."""

_with_onednn = False
_right_first = False


def can_call_onednn(model: Any) -> bool:
    """Returns whether the products of a model's training step are oneDNN's, as they are where it is compiled."""
    return bool(model.jit_compile) and not model.run_eagerly and single_cpu()


def single_cpu() -> bool:
    """Returns whether oneDNN can be called: there is one device, a CPU, and the package."""
    is_alone = jax.device_count() == 1 and keras.distribution.distribution() is None
    return on_cpu() and is_alone and onednn.available()


@contextmanager
def by_onednn() -> Iterator[None]:
    """Within, `multiply` calls oneDNN."""
    global _with_onednn
    before, _with_onednn = _with_onednn, True
    try:
        yield
    finally:
        _with_onednn = before


@contextmanager
def few_rows() -> Iterator[None]:
    """Within, a product of a few rows in bfloat16 is made as its transpose, (right.T @ left.T).T, on a CPU.

    XLA brings the second factor into another order before each product, and leaves the first as it is. So the large
    one, of weights, is better first: a vocabulary's scores in 1.5 ms in place of 2.5, those of 32 rows in 3 in place
    of 31. A kernel (in, out) must be the transpose of what lies in memory, for XLA would make it.
    """
    global _right_first
    before, _right_first = _right_first, True
    try:
        yield
    finally:
        _right_first = before


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def multiply(left, right, transpose_left: bool = False, transpose_right: bool = False):
    """Returns the product of (..., rows, inner) and (..., inner, columns), or of what is that once transposed."""
    rows, inner = _matrix(left.shape, transpose_left)
    columns = _matrix(right.shape, transpose_right)[1]
    shape = (*left.shape[:-2], rows, columns)
    if not _with_onednn or not _is_worth_it(math.prod(shape) * inner, left.dtype, right.dtype):
        return product(left, right, transpose_left, transpose_right).astype(left.dtype)
    from jax.experimental.buffer_callback import buffer_callback

    call = buffer_callback(_run(transpose_left, transpose_right), jax.ShapeDtypeStruct(shape, left.dtype))
    return call(left, right)


def product(left, right, transpose_left: bool = False, transpose_right: bool = False):
    """Returns the same by XLA, in float32 on a CPU: asked there for bfloat16, it casts both factors to float32 first.

    It does so, too, where the left factor has a single row, which is doubled therefore.
    """
    batch = tuple(range(left.ndim - 2))
    inner = left.ndim - (2 if transpose_left else 1), right.ndim - (1 if transpose_right else 2)
    widened = on_cpu() and left.dtype.itemsize == 2
    doubled = widened and left.shape[-2] == 1 and not transpose_left
    left = jnp.concatenate([left, left], axis=-2) if doubled else left
    is_turned = (
        _right_first and on_cpu() and left.dtype == jnp.bfloat16
    )  # before a length that may be symbolic
    if is_turned and left.ndim == 2 and not transpose_left and len(left) <= _FEW_ROWS:
        result = _transposed_product(left, right if transpose_right else right.T)
        return result[:1] if doubled else result
    result = jax.lax.dot_general(
        left,
        right,
        (((inner[0],), (inner[1],)), (batch, batch)),
        precision=product_precision(left.dtype),
        preferred_element_type=jnp.float32 if widened else None,
    )
    return result[..., :1, :] if doubled else result


def _transposed_product(left, right):
    """Returns (rows, inner) @ (columns, inner).T with the right factor first; XLA is kept from turning it round."""
    contracted = (((1,), (1,)), ((), ()))
    turned = jax.lax.dot_general(right, left, contracted, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(turned).T


def product_precision(dtype: Any) -> str | None:
    """Returns the precision of a float32 product on a GPU, where JAX would round its factors to ten bits (TF32).

    Thus float32 is float32 on every backend and device. Whoever sets `jax_default_matmul_precision` is obeyed.
    """
    config: Any = jax.config
    if on_cpu() or dtype != jnp.float32 or config.jax_default_matmul_precision is not None:
        return None
    return "highest"


def _is_worth_it(work: int, *types: Any) -> bool:
    names = [kind.name for kind in types]
    return onednn.multiplies_fast(*names) and work >= _LEAST_WORK[names[0]]


def _matrix(shape: tuple[int, ...], transposed: bool) -> tuple[int, int]:
    return (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])


def column_sums(matrix):
    """Returns the sums over the rows, on a CPU by a product with ones: XLA sums columns slowly there."""
    if not on_cpu():
        return jnp.sum(matrix, axis=0)
    return multiply(jnp.ones((1, matrix.shape[0]), matrix.dtype), matrix)[0]


def row_sums(matrix):
    """Returns the sums over the last axis, which stays, of length one; on a CPU by a product, as `column_sums`."""
    if not on_cpu():
        return jnp.sum(matrix, axis=-1, keepdims=True)
    return jnp.matmul(matrix, jnp.ones((matrix.shape[-1], 1), matrix.dtype))


def _forward(left, right, *settings):
    return multiply(left, right, *settings), (left, right)


def _backward(transpose_left, transpose_right, kept, upstream):
    left, right = kept
    if transpose_left:
        of_left = multiply(right, upstream, transpose_right, True)
    else:
        of_left = multiply(upstream, right, False, not transpose_right)
    if transpose_right:
        of_right = multiply(upstream, left, True, transpose_left)
    else:
        of_right = multiply(left, upstream, not transpose_left, False)
    return of_left, of_right


multiply.defvjp(_forward, _backward)


@cache
def _run(transpose_left: bool, transpose_right: bool) -> Callable[..., None]:
    """Returns the function that is called back, the same for the same settings, lest JAX compile anew."""

    def run(context, product, left, right):
        left, right, product = (np.asarray(buffer) for buffer in (left, right, product))
        left = left.swapaxes(-1, -2) if transpose_left else left
        onednn.multiply(left, right.swapaxes(-1, -2) if transpose_right else right, product)

    return run
