"""Compiled decoding for JAX: one program a shape, the whole loop in it, written into memory that it is given."""

import weakref
from typing import Any

import jax
import jax.numpy as jnp

from kerasllm.backend.jax.products import few_rows, on_cpu, product


def compiled(function):
    """Returns the function as one XLA program."""

    def program(*arguments):
        with few_rows():
            return function(*arguments)

    return jax.jit(program)


def repeated(step, finished):
    """Returns the loop as one XLA program, into whose memory the state is written again."""

    def program(weights, inputs, state, count):
        def goes_on(carry):
            return jnp.logical_and(carry[0] < count, jnp.logical_not(finished(carry[1])))

        def advance(carry):
            return carry[0] + 1, step(weights, inputs, carry[1])

        with few_rows():
            return jax.lax.while_loop(goes_on, advance, (0, state))[1]

    return jax.jit(program, donate_argnums=2)


def made_once(function):
    """Returns `function` with the last result kept as long as the arrays that it was made of live.

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
    """Returns the transpose of a kernel in bfloat16 on a CPU, see `few_rows`; else the kernel."""
    return kernel.T if on_cpu() and kernel.dtype == jnp.bfloat16 else kernel


def cache_type(compute_type: str) -> str:
    """Returns float32 on a CPU: XLA writes a column into such a cache, where it would make one in bfloat16 anew.

    The values are those computed, and products with them are faster, too.
    """
    return "float32" if on_cpu() else compute_type


def scores(hidden, table):
    """Returns the scores."""
    return product(hidden, table, transpose_right=True)


def argmax(logits):
    """Returns the places by two plain reductions, which XLA on a CPU does in a third of the time of its argmax."""
    last = logits.shape[-1] - 1
    is_largest = logits >= jnp.max(logits, axis=-1, keepdims=True)
    places = jnp.where(is_largest, jnp.arange(last + 1, dtype="int32")[None], last)
    return jnp.min(places, axis=-1)
