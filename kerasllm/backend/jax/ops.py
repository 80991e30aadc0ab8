"""JAX's operators: plain operations that XLA fuses by itself."""

import itertools
import math
from contextlib import nullcontext
from functools import cache, partial

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerasllm.backend.formulas import gelu, rotate  # noqa: F401
from kerasllm.backend.formulas import rms_norm as _rms_norm
from kerasllm.backend.hashing import draws, least_kept
from kerasllm.backend.jax.products import by_onednn, column_sums, multiply, on_cpu, single_cpu


def attention(query, key, value, *, mask=None, is_causal: bool = False, dropout_rate: float = 0.0, seed=None):
    """Returns attention; on a GPU that has it by cuDNN's fused kernel in half precision, which never holds the scores.

    Reference: Dao et al. 2022, https://arxiv.org/abs/2205.14135.
    """
    if not dropout_rate and query.shape == key.shape and _has_fused_attention(query.shape, query.dtype):
        heads = (jnp.swapaxes(part, 1, 2) for part in (query, key, value))
        if mask is not None:  # the kernel wants a row for each query
            mask = jnp.broadcast_to(mask, (*mask.shape[:-2], query.shape[-2], mask.shape[-1]))
        settings = {"mask": mask, "is_causal": is_causal, "implementation": "cudnn"}
        return jnp.swapaxes(jax.nn.dot_product_attention(*heads, **settings), 1, 2)
    scores = multiply(query * query.shape[-1] ** -0.5, key, transpose_right=True)
    probabilities = dropout(_masked_softmax(scores, mask, is_causal), dropout_rate, seed)
    return multiply(probabilities.astype(value.dtype), value)


def _has_fused_attention(shape: tuple[int, ...], dtype) -> bool:
    """Returns whether the GPU is an NVIDIA of Ampere or later and the heads fit cuDNN's kernel."""
    if not all(isinstance(length, int) for length in shape):  # a symbolic length may be odd
        return False
    fits = len(shape) == 4 and shape[-2] % 2 == 0 and shape[-1] % 8 == 0 and shape[-1] <= 128
    return fits and dtype in (jnp.bfloat16, jnp.float16) and _is_ampere_or_later()


@cache
def _is_ampere_or_later() -> bool:
    if jax.default_backend() != "gpu":
        return False
    try:
        return float(jax.devices()[0].compute_capability) >= 8
    except (AttributeError, ValueError):  # another maker's
        return False


def _masked_softmax(scores, mask, is_causal: bool):
    """Returns the softmax of the masked scores, float32 (batch, heads, queries, keys)."""
    scores = scores.astype(jnp.float32)
    lowest = jnp.finfo(jnp.float32).min
    if is_causal:
        allowed = jnp.tril(jnp.ones(scores.shape[-2:], bool), scores.shape[-1] - scores.shape[-2])
        scores = jnp.where(allowed, scores, lowest)
    if mask is not None:
        scores = jnp.where(mask, scores, lowest)
    return jax.nn.softmax(scores, axis=-1)


def dropout(inputs, rate: float, seed):
    """Returns `inputs` with dropout, which XLA fuses with what is around it."""
    if not rate:
        return inputs
    stays = draws(inputs.shape, seed) >= least_kept(rate)
    return jnp.where(stays, inputs / (1 - rate), jnp.zeros_like(inputs))


def add_dropout(hidden, branch, rate: float, seed):
    """Returns `hidden` plus the branch with dropout."""
    return hidden + dropout(branch, rate, seed)


def activation(inputs, name: str):
    """Returns the activation, which XLA computes once."""
    inputs = _fence(inputs)
    if name == "gelu" and not all(isinstance(size, int) for size in inputs.shape):
        # A model that is exported for any length: TensorFlow may not know JAX's erf, but knows its complement.
        return jax.nn.gelu(inputs.astype("float32"), approximate=False).astype(inputs.dtype)
    if name in ("gelu", "gelu_tanh"):
        return _fence(gelu(inputs, approximate=name == "gelu_tanh"))
    return _fence(keras.activations.get(name)(inputs))


def _fence(inputs):
    """Returns `inputs`, with XLA on a CPU kept from fusing what is before with what comes after.

    Fused into the matrix products around it, a GELU is computed many times over: the gradient of a
    feed-forward network took 210 ms with it and 106 ms without.
    """
    return jax.lax.optimization_barrier(inputs) if on_cpu() else inputs


def layer_norm(inputs, scale, bias, epsilon: float):
    """Returns the layer normalization, with a gradient of its own that sums by products on a CPU."""
    scale = _array(scale, jnp.float32)
    bias = jnp.zeros_like(scale) if bias is None else _array(bias, jnp.float32)
    return _layer_norm(inputs, scale, bias, epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(inputs, scale, bias, epsilon):
    return _normalized(inputs, scale, bias, epsilon)[0]


def _normalized(inputs, scale, bias, epsilon):
    hidden = inputs.astype(jnp.float32)
    mean = jnp.mean(hidden, axis=-1, keepdims=True)
    centered = hidden - mean
    factor = jax.lax.rsqrt(jnp.mean(jnp.square(centered), axis=-1, keepdims=True) + epsilon)
    return (centered * factor * scale + bias).astype(inputs.dtype), (inputs, scale, mean, factor)


def _layer_norm_gradient(epsilon, kept, upstream):
    inputs, scale, mean, factor = kept
    normal = (inputs.astype(jnp.float32) - mean) * factor
    slope = upstream.astype(jnp.float32)
    rows = (-1, slope.shape[-1])
    of_scale = column_sums((slope * normal).reshape(rows))
    of_bias = column_sums(upstream.reshape(rows)).astype(jnp.float32)
    slope = slope * scale
    along = jnp.mean(slope * normal, axis=-1, keepdims=True)
    of_inputs = factor * (slope - jnp.mean(slope, axis=-1, keepdims=True) - normal * along)
    return of_inputs.astype(inputs.dtype), of_scale, of_bias


_layer_norm.defvjp(_normalized, _layer_norm_gradient)


def rms_norm(inputs, scale, epsilon: float):
    """Returns the normalization by the root mean square."""
    return _rms_norm(inputs, keras.ops.convert_to_tensor(scale), epsilon)


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """Returns the product, with a gradient of the bias that is summed by a product on a CPU."""
    product = multiply(inputs, _array(kernel, inputs.dtype), transpose_right=transposed)
    return product if bias is None else _add_bias(product, _array(bias, inputs.dtype))


@jax.custom_vjp
def _add_bias(product, bias):
    return product + bias


_add_bias.defvjp(
    lambda product, bias: (product + bias, None),
    lambda _, upstream: (upstream, column_sums(upstream)),
)


def _array(value, dtype):
    return jnp.asarray(keras.ops.convert_to_tensor(value), dtype)


def matrix_product(left, right):
    """Returns the product, by oneDNN where a training step may use that."""
    return _product(left, right)


@jax.jit
def _product(left, right):
    with by_onednn() if single_cpu() else nullcontext():
        return multiply(left, right)


def split(inputs, sizes: tuple[int, ...], axis: int):
    """Returns the parts."""
    return jnp.split(inputs, list(itertools.accumulate(sizes))[:-1], axis=axis)


def take_rows(table, ids):
    """Returns the rows, of a table in bfloat16 on a CPU without making it float32."""
    table = keras.ops.convert_to_tensor(table)
    ids = jnp.asarray(ids, "int32")
    ids = jnp.where(ids < 0, len(table), ids)  # not the rows from the end; what is not there is NaN
    if on_cpu() and table.dtype == jnp.bfloat16:
        return _take_bfloat16(table, ids)
    return keras.ops.take(table, ids, axis=0)


@jax.custom_vjp
def _take_bfloat16(table, ids):
    """Returns the rows, taken as bits: XLA for a CPU would make the whole table float32 to take them."""
    bits = jax.lax.bitcast_convert_type(table, jnp.uint16)
    return jax.lax.bitcast_convert_type(keras.ops.take(bits, ids, axis=0), table.dtype)


def _take_gradient(kept, upstream):
    ids, empty = kept
    table = jnp.zeros((empty.shape[1], upstream.shape[-1]), jnp.float32)
    return table.at[ids].add(upstream.astype(jnp.float32)).astype(upstream.dtype), None


_take_bfloat16.defvjp(
    lambda table, ids: (_take_bfloat16(table, ids), (ids, jnp.empty((0, len(table))))), _take_gradient
)


def take_positions(hidden, positions):
    """Returns what stands at the positions."""
    return keras.ops.take_along_axis(hidden, positions[:, :, None], axis=1)


def write_slice(cache, value, position):
    """Returns the cache with `value` in it."""
    value = value.astype(cache.dtype)
    if jnp.ndim(position):
        return cache.at[jnp.arange(len(cache)), position].set(
            value[:, 0], indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
        )
    return jax.lax.dynamic_update_slice(cache, value, (0, position, 0))


def fill_rows(variable, parts):
    """Fills the variable: with one new array, which JAX takes without a copy if it begins at a multiple of 64 bytes."""
    shape, size = variable.shape, 4 * math.prod(variable.shape)
    variable.value.delete()
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    whole = memory[first : first + size].view(np.float32).reshape(shape)
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    variable.assign(whole)


def boundary(hidden):
    """Returns `hidden`: XLA compiles a step whole."""
    return hidden


def is_symbolic(tensor, axis: int) -> bool:
    """Returns whether the length is a symbol, as where a model is traced for every length."""
    return not isinstance(tensor.shape[axis], int)
