"""JAX: plain operations that XLA fuses; training state is functional, so nothing is mutated here."""

import itertools
import math
from contextlib import nullcontext
from functools import cache, partial

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerasllm.backend.jax import onednn
from kerasllm.backend.jax.products import (
    ON_CPU,
    by_onednn,
    can_call_onednn,
    column_sums,
    multiply,
    single_cpu,
)

jit_compile = "auto"


def version() -> str:
    """The backend's version."""
    return jax.__version__


def libraries() -> list[str]:
    """Packages beside JAX that a training step computes with."""
    return [onednn.PACKAGE] if onednn.available() else []


def attention(query, key, value, mask=None, is_causal: bool = False):
    """Scaled dot-product attention, (batch, heads, length, head_dim) in and out; both first axes may be one.

    Args:
        query, key, value: the same floating type; the scores and the softmax are in float32.
        mask: boolean, broadcastable to (batch, heads, queries, keys), True where attention is allowed.
        is_causal: a query sees no later key.

    On a GPU that has it, this is cuDNN's fused kernel in half precision, which never holds the scores.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.1; Dao et al. 2022,
    https://arxiv.org/abs/2205.14135.
    """
    if query.shape == key.shape and _has_fused_attention(query.shape, query.dtype):
        heads = (jnp.swapaxes(part, 1, 2) for part in (query, key, value))
        if mask is not None:  # the kernel wants a row for each query
            mask = jnp.broadcast_to(mask, (*mask.shape[:-2], query.shape[-2], mask.shape[-1]))
        settings = {"mask": mask, "is_causal": is_causal, "implementation": "cudnn"}
        return jnp.swapaxes(jax.nn.dot_product_attention(*heads, **settings), 1, 2)
    probabilities = masked_softmax(attention_scores(query, key), mask, is_causal)
    return attend(probabilities.astype(value.dtype), value)


def _has_fused_attention(shape: tuple[int, ...], dtype) -> bool:
    """Whether there is an NVIDIA GPU from Ampere on, and heads that cuDNN's kernel takes."""
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


def self_attention(query_key_value, num_heads: int, *settings) -> None:
    """Self-attention of (batch, length, 3 * hidden_dim), or None where its parts do as well: always."""


def attend(probabilities, value):
    """The values (batch, heads, keys, head_dim) in sums weighted by (batch, heads, queries, keys)."""
    return multiply(probabilities, value)


def attention_scores(query, key):
    """The scaled scores (batch, heads, queries, keys)."""
    return multiply(query * query.shape[-1] ** -0.5, key, transpose_right=True)


def masked_softmax(scores, mask=None, is_causal: bool = False):
    """The softmax of the masked scores, float32 (batch, heads, queries, keys)."""
    scores = scores.astype(jnp.float32)
    lowest = jnp.finfo(jnp.float32).min
    if is_causal:
        allowed = jnp.tril(jnp.ones(scores.shape[-2:], bool), scores.shape[-1] - scores.shape[-2])
        scores = jnp.where(allowed, scores, lowest)
    if mask is not None:
        scores = jnp.where(mask, scores, lowest)
    return jax.nn.softmax(scores, axis=-1)


def fuse(function, *tensors, **settings):
    """`function(*tensors, **settings)`: XLA fuses by itself."""
    return function(*tensors, **settings)


def recorded_once(function):
    """The function as it is: tracing is cheap here."""
    return function


def drop(inputs, draws, least: int, kept: float):
    """`inputs` / `kept` where the `draws`, int32 from 0 on and of the same shape, are `least` or more; elsewhere 0."""
    return jnp.where(draws >= least, inputs / kept, jnp.zeros_like(inputs))


def gelu(inputs, approximate: bool = False):
    """The exact one (erf), or its approximation by tanh, in float32 in between.

    Written out: JAX's own takes a cube for a power, and the complement of the error function, which costs more.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    wide = inputs.astype(jnp.float32)
    if approximate:
        share = 1.0 + jnp.tanh((2 / math.pi) ** 0.5 * wide * (1.0 + 0.044715 * (wide * wide)))
    else:
        share = 1.0 + jax.lax.erf(wide * 2**-0.5)
    return (0.5 * wide * share).astype(inputs.dtype)


def sum_and_norm(hidden, branch, scale, bias, epsilon: float, rate: float, seed_generator) -> None:
    """A residual sum and its `layer_norm`, or None where its parts do as well: always."""


def layer_norm(inputs, scale, bias, epsilon: float):
    """Layer normalisation over the last axis, computed in float32; without a bias where that is None.

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """
    scale = _array(scale, jnp.float32)
    bias = jnp.zeros_like(scale) if bias is None else _array(bias, jnp.float32)
    return _layer_norm(inputs, scale, bias, epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(inputs, scale, bias, epsilon):
    return _normalized(inputs, scale, bias, epsilon)[0]


def _normalized(inputs, scale, bias, epsilon):
    hidden = inputs.astype(jnp.float32)
    mean = jnp.mean(hidden, axis=-1, keepdims=True)
    centred = hidden - mean
    factor = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    return (centred * factor * scale + bias).astype(inputs.dtype), (inputs, scale, mean, factor)


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


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """(rows, in) @ kernel (in, out), plus bias (out,) if there is one; Keras variables or arrays.

    A `transposed` kernel is (out, in).
    """
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
    """`left @ right`, made as in a compiled training step."""
    return _product(left, right)


@jax.jit
def _product(left, right):
    with by_onednn() if single_cpu() else nullcontext():
        return multiply(left, right)


def split(inputs, sizes: tuple[int, ...], axis: int):
    """Parts of `inputs`, `sizes` wide each, along an axis."""
    return jnp.split(inputs, list(itertools.accumulate(sizes))[:-1], axis=axis)


def take_rows(table, ids):
    """The rows of a table (rows, hidden_dim) at `ids`, any shape; a Keras variable or array."""
    table = keras.ops.convert_to_tensor(table)
    if ON_CPU and table.dtype == jnp.bfloat16:
        return _take_bfloat16(table, ids)
    return keras.ops.take(table, ids, axis=0)


@jax.custom_vjp
def _take_bfloat16(table, ids):
    """As bits: XLA for a CPU would make the whole table float32 to take its rows."""
    bits = jax.lax.bitcast_convert_type(table, jnp.uint16)
    return jax.lax.bitcast_convert_type(keras.ops.take(bits, ids, axis=0), table.dtype)


def _take_gradient(kept, upstream):
    ids, empty = kept
    table = jnp.zeros((empty.shape[1], upstream.shape[-1]), jnp.float32)
    return table.at[ids].add(upstream.astype(jnp.float32)).astype(upstream.dtype), None


_take_bfloat16.defvjp(
    lambda table, ids: (_take_bfloat16(table, ids), (ids, jnp.empty((0, len(table))))), _take_gradient
)


def write_slice(cache, value, position):
    """The cache (batch * heads, capacity, head_dim) with `value` written at column `position` and after."""
    return jax.lax.dynamic_update_slice(cache, value.astype(cache.dtype), (0, position, 0))


def fill_rows(variable, parts):
    """Fills a Keras variable with its rows, NumPy parts of them one after another.

    The rows go into one new array, in the place of the old: from a multiple of 64 bytes JAX takes it without a copy.
    """
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


def fence(inputs):
    """On the CPU, keeps XLA from fusing what is before with what comes after; elsewhere nothing.

    Fused into the matrix products around it, a GELU is computed many times over: the gradient of a
    feed-forward network took 210 ms with it and 106 ms without.
    """
    return jax.lax.optimization_barrier(inputs) if ON_CPU else inputs


def boundary(hidden):
    """`hidden`: XLA compiles a step whole."""
    return hidden


def per_step_metrics(model, train_step, state, data):
    """Runs `train_step` with every metric reset first: the logs are this batch's, not a running mean."""
    trainable, non_trainable, optimizer, _ = state
    fresh = [value for metric in model.metrics for value in metric.stateless_reset_state()]
    return train_step((trainable, non_trainable, optimizer, fresh), data)


def can_compile() -> bool:
    """Whether `jit_compile=True` is possible here: always."""
    return True


def make_train_function(model, make):
    """Keras' own, `make()`."""
    make()


def compiled_step(model, train_step, *arguments):
    """Keras' own step, which it compiles as `jit_compile` says; its products are oneDNN's where they can be."""
    with by_onednn() if can_call_onednn(model) else nullcontext():
        return train_step(*arguments)


evaluation_step = compiled_step
"""Of `evaluate` and of `fit`'s validation, the same way."""


def get_random_state() -> bytes | None:
    """JAX has no global generator: its keys live in the model's seed generators."""
    return None


def set_random_state(state: bytes | None) -> None:
    """Nothing to restore, see `get_random_state`."""


def remember_losses(labels, logits, losses) -> None:
    """Nothing to do: within a compiled step XLA merges equal expressions."""


def recall_losses(labels, logits) -> None:
    """Nothing is kept, see `remember_losses`."""
