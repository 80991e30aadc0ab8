"""Compiled decoding for JAX: one program a shape, the whole loop in it, written into memory that it is given."""

import jax
import jax.numpy as jnp

from kerasllm.backend.jax_products import ON_CPU, product


def compiled(function):
    """The function as one XLA program, made anew for each shape of its arguments.

    Args:
        function: of (nested) tensors and whole numbers, all of which may change from call to call.
    """
    return jax.jit(function)


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

        return jax.lax.while_loop(goes_on, advance, (0, state))[1]

    return jax.jit(program, donate_argnums=2)


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
