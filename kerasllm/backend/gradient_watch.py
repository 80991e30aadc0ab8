"""Looks at the gradients between backpropagation and update, where Keras has no hook.

Keras' own train steps pass the loss through `optimizer.scale_loss` and end in `optimizer.apply`. For the time of one
step, or of its tracing, both are replaced here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops


def can_watch(model: Any) -> bool:
    """Returns whether a step of the model can be guarded: a loss scale has a guard of its own."""
    optimizer = getattr(model, "optimizer", None)
    return optimizer is not None and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


@contextmanager
def watch(
    optimizer: keras.optimizers.Optimizer,
    on_loss: Callable[[Any], Any],
    on_gradients: Callable[[Callable, Any, Any], None],
) -> Iterator[None]:
    """Calls `on_loss(loss)`, whose result takes the loss's place, and `on_gradients(apply, gradients, variables)`.

    It can be nested: the inner one sees the gradients first, and its `apply` leads to the outer one.

    Args:
        optimizer: the instance, which is changed within the context alone.
        on_loss: function from the loss to what is differentiated.
        on_gradients: function that calls `apply(gradients, variables)`, or does not.
    """
    scale_loss, apply = optimizer.scale_loss, optimizer.apply
    own = vars(optimizer)
    before = {name: own[name] for name in ("scale_loss", "apply") if name in own}
    own["scale_loss"] = lambda loss: on_loss(scale_loss(loss))
    own["apply"] = lambda gradients, variables=None: on_gradients(apply, gradients, variables)
    try:
        yield
    finally:
        del own["scale_loss"], own["apply"]
        own.update(before)


def poison_if_bad(loss):
    """Returns the loss, unchanged to the bit where it is finite; elsewhere no gradient of it will be finite."""
    return loss * ops.stop_gradient(ops.where(ops.isfinite(loss), ops.ones_like(loss), loss * float("nan")))


def global_norm(gradients):
    """Returns the norm of all gradients together, written as Keras' clipping does, so that a compiler makes it once."""
    squares = [ops.sum(ops.square(gradient)) for gradient in gradients if gradient is not None]
    return ops.sqrt(ops.sum(ops.stack(squares)))


def seed_states(model: keras.Model) -> list[Any]:
    """Returns the states of the seed generators, which a step changes beside weights, optimizer and metrics."""
    weights = {id(variable) for variable in model.non_trainable_weights}
    return [variable for variable in model.non_trainable_variables if id(variable) not in weights]
