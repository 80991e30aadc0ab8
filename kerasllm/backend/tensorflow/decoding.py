"""Compiled decoding for TensorFlow: one XLA program a shape, the whole loop in it."""

import tensorflow as tf


def compiled(function):
    """The function as one XLA program, made anew for each shape of its arguments.

    Args:
        function: of (nested) tensors and whole numbers, all of which may change from call to call.
    """
    graph = tf.function(function, autograph=False, jit_compile=True)
    programs = {}

    def call(*arguments):
        # A Python number would be a constant of the program. And a `tf.function` warns at its fifth shape.
        tensors = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tf.nest.flatten(tensors))
        if shapes not in programs:
            programs[shapes] = graph.get_concrete_function(*tensors)
        return programs[shapes](*tensors)

    return call


def repeated(step, finished):
    """A loop over `step` as one XLA program, made anew for each shape of its arguments.

    Args:
        step: from (weights, inputs, state) to the next state, of the same shapes.
        finished: from a state to a boolean scalar.

    Returns:
        A function of (weights, inputs, state, count) that takes at most `count` steps and stops before one if the
        state is finished.
    """

    def program(weights, inputs, state, count):
        def goes_on(done, state):
            return tf.logical_and(done < count, tf.logical_not(finished(state)))

        def advance(done, state):
            return done + 1, step(weights, inputs, state)

        return tf.while_loop(goes_on, advance, (0, state), parallel_iterations=1)[1]

    return compiled(program)


def made_once(function):
    """`function` from a list of tensors to another: called each time, for variables change in place."""
    return function


def turned(kernel):
    """A kernel (in, out) as programs are given it: as it is."""
    return kernel


def cache_type(compute_type: str) -> str:
    """Of keys and values."""
    return compute_type


def scores(hidden, table):
    """(rows, hidden_dim) and (vocabulary, hidden_dim) → (rows, vocabulary)."""
    return tf.matmul(hidden, table, transpose_b=True)


def argmax(logits):
    """The first of the largest of each row, (rows, vocabulary) → int32 (rows,).

    By two plain reductions, which XLA on a CPU does in two thirds of the time that an argmax takes.
    """
    last = logits.shape[-1] - 1
    is_largest = logits >= tf.reduce_max(logits, axis=-1, keepdims=True)
    places = tf.where(is_largest, tf.range(last + 1)[None], last)
    return tf.reduce_min(places, axis=-1)
