"""Training steps on TensorFlow: compiled whole by XLA, or in parts where that is faster (see `fusion`)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from kerasllm.backend.tensorflow import fusion
from kerasllm.backend.tensorflow.gradients import bound_to_graph, custom_gradient
from kerasllm.backend.tensorflow.loading import loading  # noqa: F401

jit_compile = True
_SETTINGS = ("trainable", "name", "dtype", "synchronization", "aggregation", "shape")


def version() -> str:
    """Returns TensorFlow's version."""
    return tf.__version__


def libraries() -> list[str]:
    """Returns no packages."""
    return []


def can_compile() -> bool:
    """Returns True: XLA is a part of TensorFlow."""
    return True


def make_train_function(model: Any, make: Callable[[], None]) -> None:
    """Calls `make()`, which compiles the step whole, or not at all if it is compiled in parts.

    The optimizer's variables are made before, not in the step: TensorFlow traces a function that makes some twice.
    """
    optimizer = model.optimizer
    if not (optimizer is None or optimizer.built or model._distribute_strategy):  # with which Keras builds it
        optimizer.build(model.trainable_variables)
    if not fusion.in_parts(model):
        return make()
    asked = model.jit_compile
    model.jit_compile = False
    try:
        make()
    finally:
        model.jit_compile = asked


def make_function(model, name, make):
    """Calls `make()`."""
    make()


def whole_step(model: Any, train_step: Callable, *arguments: Any):
    """Returns the step's results: what is around the step is compiled with it anyway."""
    return train_step(*arguments)


def compiled_step(model: Any, train_step: Callable, *arguments: Any) -> Any:
    """Returns Keras' own step's results; the step is compiled whole by Keras, or in parts here."""
    create = partial(_made_beforehand, anew=model.per_step_metrics)
    with bound_to_graph(), tf.variable_creator_scope(create):
        if not fusion.in_parts(model):
            return train_step(*arguments)
        if not model.optimizer.built:  # no variables are made within a part
            model.optimizer.build(model.trainable_variables)
        with fusion.fusing(), fusion.fused_update(model.optimizer):
            return train_step(*arguments)


def _made_beforehand(
    make: Callable, initial_value: Any = None, anew: bool = False, **settings: Any
) -> tf.Variable:
    """Returns a variable that a step is the first to need, such as a metric's, made as if before it.

    If metrics are to begin `anew` in each step, this one does from here on; those made before are reset before.
    """
    if tf.executing_eagerly() or tf.distribute.has_strategy() or not callable(initial_value):
        return make(initial_value=initial_value, **settings)
    with tf.init_scope():  # in which tf.Variable would tell the function
        variable = ResourceVariable(initial_value, **{name: settings[name] for name in _SETTINGS})
    if anew and settings["synchronization"] == tf.VariableSynchronization.ON_READ:  # of metrics alone
        variable.assign(initial_value())
    return variable


def in_parts(function, weights, states, parts):
    """Returns the results for the parts of a batch, by one loop for the results and another for the gradients."""
    count = next(iter(parts.values())).shape[0]
    states = [tf.identity(state) for state in states]  # the gradients' loop begins with them, too

    def part(index):
        return {name: value[index] for name, value in parts.items()}

    @custom_gradient
    def results_of(*weights):
        first, after = function(weights, states, part(0))
        array = tf.TensorArray(first.dtype, count, element_shape=first.shape).write(0, first)

        def step(index, array, states):
            result, states = function(weights, states, part(index))
            return index + 1, array.write(index, result), states

        _, array, after = tf.while_loop(lambda index, *_: index < count, step, (1, array, list(after)))

        def gradients(upstream, *_):
            def step(index, sums, states):
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(weights)
                    result, states = function(weights, states, part(index))
                found = tape.gradient(result, weights, upstream[index], tf.UnconnectedGradients.ZERO)
                return index + 1, [one + other for one, other in zip(sums, found, strict=True)], states

            sums = [tf.zeros_like(weight) for weight in weights]
            return tf.while_loop(lambda index, *_: index < count, step, (0, sums, list(states)))[1]

        return (array.stack(), *after), gradients

    results, *after = results_of(*weights)
    return results, after


def recomputed(function, weights, states, inputs):
    """Returns the result and the new states."""
    states = [tf.identity(state) for state in states]  # the backward pass begins with them, too
    count = len(weights)

    @custom_gradient
    def compute(*tensors):
        result, after = function(list(tensors[:count]), states, list(tensors[count:]))

        def gradients(upstream, *_):
            # The compiler would take the first values, were the inputs not made anew from what comes last.
            first = tf.reshape(upstream, [-1])[0]
            nothing = tf.where(tf.equal(first, first), 0.0, float("nan"))
            again = [tensor + tf.cast(nothing, tensor.dtype) for tensor in tensors]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(again)
                result, _ = function(again[:count], states, again[count:])
            return tape.gradient(result, again, upstream, tf.UnconnectedGradients.ZERO)

        return (result, *after), gradients

    result, *after = compute(*weights, *inputs)
    return result, after


def evaluation_step(model, test_step, *arguments):
    """Returns Keras' own step's results."""
    return test_step(*arguments)


def per_step_metrics(model, train_step, *arguments):
    """Returns the step's results after a reset of the metrics.

    In the one step that is traced, Keras first looks at the metrics that it was given and makes its own: those begin
    anew where they are made, see `compiled_step`.
    """
    model.reset_metrics()
    known = model._compile_metrics
    if known is not None and not known.built:
        for metric in keras.tree.flatten((known._user_metrics, known._user_weighted_metrics)):
            if isinstance(metric, keras.metrics.Metric):
                metric.reset_state()
    return train_step(*arguments)


def check_saved_model(path, inputs):
    """Checks nothing of a SavedModel, which TensorFlow wrote itself."""


def get_random_state() -> bytes | None:
    """Returns None: kerasllm's layers do not use TensorFlow's global generator."""
    return None


def set_random_state(state: bytes | None) -> None:
    """Restores nothing, see `get_random_state`."""
