"""Recurrences on JAX: a scan over the steps, with a gradient of its own.

The gradient of the kernel is one product over all steps, where JAX's own would add a product to the whole kernel's
gradient at each step: a training step of an LSTM of 256 units, 32 x 64, takes less than half the time.
"""

from functools import partial

import jax
import jax.numpy as jnp
import keras

from kerasllm.backend import recurrent_cells as cells
from kerasllm.backend.jax.ops import dense
from kerasllm.backend.jax.products import column_sums, multiply, on_cpu, product

_FUNCTIONS = cells.Functions(
    sigmoid=jax.nn.sigmoid,
    tanh=jnp.tanh,
    relu=jax.nn.relu,
    concatenate=partial(jnp.concatenate, axis=-1),
    is_positive=lambda values: (values > 0).astype(values.dtype),
)


def recurrence(
    cell: str,
    inputs,
    state,
    input_kernel,
    recurrent_kernel,
    input_bias,
    recurrent_bias,
    mask=None,
    reverse: bool = False,
):
    """Returns the outputs and the last state."""
    length, rows, width = inputs.shape
    input_bias, recurrent_bias = map(keras.ops.convert_to_tensor, (input_bias, recurrent_bias))
    is_gru = cell == "gru"
    bias = input_bias if is_gru else input_bias + recurrent_bias
    projected = dense(inputs.reshape(length * rows, width), input_kernel, bias, transposed=True)
    projected = projected.reshape(length, rows, -1).astype(jnp.float32)
    kernel = keras.ops.convert_to_tensor(recurrent_kernel).astype(jnp.float32 if on_cpu() else inputs.dtype)
    bias = recurrent_bias.astype(jnp.float32) if is_gru else None
    mask = None if mask is None else mask[..., None]
    state = tuple(part.astype(jnp.float32) for part in state)
    outputs, state = _run(cell, reverse, projected, state, kernel, bias, mask)
    return outputs.astype(inputs.dtype), state


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(cell, reverse, projected, state, kernel, bias, mask):
    return _forward(cell, reverse, projected, state, kernel, bias, mask)[0]


def _forward(cell, reverse, projected, state, kernel, bias, mask):
    # XLA would turn the kernel at each step, for a fifth of the product's time.
    turned = jax.lax.optimization_barrier(kernel.T)

    def step(before, given):
        projected, mask = given
        recurrent = product(before[0].astype(kernel.dtype), turned).astype(jnp.float32)
        recurrent = recurrent if bias is None else recurrent + bias
        after, kept = cells.advance(_FUNCTIONS, cell, projected, recurrent, before)
        if mask is not None:
            after = tuple(jnp.where(mask, new, old) for new, old in zip(after, before, strict=True))
        return after, (after, kept)

    last, (states, kept) = jax.lax.scan(step, state, (projected, mask), reverse=reverse)
    return (states[0], last), (state, kernel, bias, mask, states, kept)


def _backward(cell, reverse, kept, upstream):
    state, kernel, bias, mask, states, kept = kept
    of_outputs, of_last = upstream
    # The states before each step: those after the one before.
    before = tuple(
        jnp.concatenate([after[1:], first[None]] if reverse else [first[None], after[:-1]])
        for first, after in zip(state, states, strict=True)
    )

    def step(slopes, given):
        of_output, kept, before, after, mask = given
        slopes = (slopes[0] + of_output, *slopes[1:])
        real = slopes if mask is None else tuple(jnp.where(mask, slope, 0.0) for slope in slopes)
        projected, recurrent, direct = cells.retreat(_FUNCTIONS, cell, real, kept, before, after)
        through = projected if recurrent is None else recurrent
        of_hidden = product(through.astype(kernel.dtype), kernel).astype(jnp.float32)
        of_hidden = of_hidden if direct[0] is None else of_hidden + direct[0]
        found = (of_hidden, *direct[1:])
        if mask is not None:
            found = tuple(new + jnp.where(mask, 0.0, slope) for new, slope in zip(found, slopes, strict=True))
        return found, (projected, recurrent)

    given = of_outputs, kept, before, states[-1], mask
    of_state, (of_projected, of_recurrent) = jax.lax.scan(step, of_last, given, reverse=not reverse)
    of_recurrent = of_projected if of_recurrent is None else of_recurrent
    flat = of_recurrent.reshape(-1, of_recurrent.shape[-1])
    hidden = before[0].reshape(-1, before[0].shape[-1])
    of_kernel = multiply(flat, hidden, True, False).astype(kernel.dtype)
    return of_projected, of_state, of_kernel, None if bias is None else column_sums(flat), None


_run.defvjp(_forward, _backward)
