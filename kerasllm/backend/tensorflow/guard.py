"""Guarded steps on TensorFlow: the variables are read before the step, and a bad step writes back what was read.

To XLA the guarded step is another program than Keras' own, and it may round an update otherwise in the last bit.
"""

from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kerasllm.backend.gradient_watch import can_watch, global_norm, poison_if_bad, seed_states, watch
from kerasllm.backend.tensorflow.fusion import part


def guarded_step(model, train_step, *arguments):
    """Returns the step's results; XLA fuses the choice into the update, so that no pass over the weights is added."""
    if not can_watch(model):
        return train_step(*arguments)
    optimizer, norms = model.optimizer, []
    accumulates = bool(optimizer.gradient_accumulation_steps)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)

    changing: list[Any] = []
    if not accumulates:
        changing += model.trainable_variables
        changing += [variable for variable in optimizer.variables if variable is not optimizer.iterations]

    def on_gradients(apply, gradients, variables) -> None:
        def update(gradients):
            norm = global_norm(gradients)
            good = tf.math.is_finite(norm)
            if accumulates:
                gradients = [g if g is None else tf.where(good, g, tf.zeros_like(g)) for g in gradients]
            with _kept_unless(good, changing):
                apply(gradients, variables)
            return norm

        norms.append(part(update)(gradients))

    seeds = seed_states(model)
    before = [tf.convert_to_tensor(variable.value) for variable in seeds]
    with watch(optimizer, poison_if_bad, on_gradients):
        logs = train_step(*arguments)
    if not norms:  # nothing is trainable
        return logs
    good = tf.math.is_finite(norms[0])
    for variable, old in zip(seeds, before, strict=True):
        variable.assign(tf.where(good, tf.convert_to_tensor(variable.value), old))
    return {**logs, "gradient_norm": norms[0]}


@contextmanager
def _kept_unless(good, variables):
    """Within, variables change; after it, those of a bad step are what they were."""
    before = [tf.convert_to_tensor(variable.value) for variable in variables]
    yield
    for variable, old in zip(variables, before, strict=True):
        variable.assign(tf.where(good, tf.convert_to_tensor(variable.value), old))
