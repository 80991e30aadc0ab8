"""Compiled decoding for JAX: one program a shape, the whole loop in it, written into memory that it is given."""

import weakref
from typing import Any

import jax
import jax.numpy as jnp

from kerasllm.backend.jax.products import ON_CPU, few_rows, product


def compiled(function):
    """The function as one XLA program, made anew for each shape of its arguments.

    Args:
        function: of (nested) tensors and whole numbers, all of which may change from call to call.
    """

    def program(*arguments):
        with few_rows():
            return function(*arguments)

    return jax.jit(program)


def repeated(step, finished):
    """A loop over `step` as one XLA program, made anew for each shape of its arguments.

    Args:
        step: from (weights, inputs, state) to the next state, of the same shapes.
        finished: from a state to a boolean scalar.

    Returns:
        A function of (weights, inputs, state, count) that takes at most `count` steps and stops before one if the
        state is finished. The state it is given is used up.
    """

    def program(weights, inputs, state, count):
        def goes_on(carry):
            return jnp.logical_and(carry[0] < count, jnp.logical_not(finished(carry[1])))

        def advance(carry):
            return carry[0] + 1, step(weights, inputs, carry[1])

        with few_rows():
            return jax.lax.while_loop(goes_on, advance, (0, state))[1]

    return jax.jit(program, donate_argnums=2)


def made_once(function):
    """`function` from a list of arrays to another, whose result is kept as long as the arrays of the last call live.

    JAX's arrays never change: weights that are trained on, or loaded, are other ones.
    """
    compiled = jax.jit(function)
    kept: dict[str, Any] = {}

    def call(arrays):
        sources = kept.get("sources", [])
        if len(sources) != len(arrays) or any(
            source() is not array for source, array in zip(sources, arrays, strict=True)
        ):
            kept.clear()
            results = compiled(arrays)
            kept.update(sources=[weakref.ref(array, lambda _: kept.clear()) for array in arrays])
            kept.update(results=results)
        return kept["results"]

    return call


def turned(kernel):
    """A kernel (in, out) as programs are given it: on a CPU in bfloat16 its transpose, see `few_rows`.

    Turned again, it is the kernel.
    """
    return kernel.T if ON_CPU and kernel.dtype == jnp.bfloat16 else kernel


def cache_type(compute_type: str) -> str:
    """Of keys and values: on a CPU float32, into which XLA writes a column, where it would make a bfloat16 cache anew.

    The values are those computed; products with them, too, are faster.
    """
    return "float32" if ON_CPU else compute_type


def scores(hidden, table):
    """(rows, hidden_dim) and (vocabulary, hidden_dim) → (rows, vocabulary)."""
    return product(hidden, table, transpose_right=True)


def argmax(logits):
    """The first of the largest of each row, (rows, vocabulary) → int32 (rows,).

    By two plain reductions, which XLA on a CPU does in a third of the time that its argmax takes.
    """
    last = logits.shape[-1] - 1
    is_largest = logits >= jnp.max(logits, axis=-1, keepdims=True)
    places = jnp.where(is_largest, jnp.arange(last + 1, dtype="int32")[None], last)
    return jnp.min(places, axis=-1)
