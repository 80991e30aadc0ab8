"""Training for TensorFlow on a CPU in bfloat16: matrix products by oneDNN, and what is between them by XLA.

XLA's own products on a CPU are no faster in bfloat16 than in float32; TensorFlow's, outside XLA, are twice as fast.
So the step stays a TensorFlow graph, in which each run of element-wise work (`fuse`) is compiled as a program of its
own. Its gradient is another, which makes again from the inputs what it needs: no more than inputs and results is kept.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from kerasllm.backend.processor import multiplies_bfloat16
from kerasllm.backend.tensorflow.gradients import bound_to_graph, custom_gradient

_active = False
_SETTINGS = ("trainable", "name", "dtype", "synchronization", "aggregation", "shape")


@cache
def _fast_products() -> bool:
    """Whether TensorFlow's own products in bfloat16 are faster than XLA's: on a CPU that multiplies bfloat16."""
    if tf.config.list_physical_devices("GPU") or os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return False
    return multiplies_bfloat16()


def in_parts(model: Any) -> bool:
    """Whether a model's training step, which `jit_compile` is on for, is compiled in parts."""
    return (
        bool(model.jit_compile)
        and model.compute_dtype == "bfloat16"
        and model.optimizer is not None
        and not tf.distribute.has_strategy()
        and _fast_products()
    )


def make_train_function(model: Any, make: Callable[[], None]) -> None:
    """Calls `make()`, which compiles the step whole, without that if it is compiled in parts.

    The optimizer's variables are made before, not in the step: TensorFlow traces a function that makes some twice.
    """
    optimizer = model.optimizer
    if not (optimizer is None or optimizer.built or model._distribute_strategy):  # with which Keras builds it
        optimizer.build(model.trainable_variables)
    if not in_parts(model):
        return make()
    asked = model.jit_compile
    model.jit_compile = False
    try:
        make()
    finally:
        model.jit_compile = asked


def compiled_step(model: Any, train_step: Callable, *arguments: Any) -> Any:
    """Keras' own step, which it compiles as `jit_compile` says, or which is compiled in parts here."""
    create = partial(_made_beforehand, anew=model.per_step_metrics)
    with bound_to_graph(), tf.variable_creator_scope(create):
        return _in_parts(model, train_step, *arguments) if in_parts(model) else train_step(*arguments)


def _made_beforehand(
    make: Callable, initial_value: Any = None, anew: bool = False, **settings: Any
) -> tf.Variable:
    """A variable that a step is the first to need, such as a metric's, made as if before it.

    If metrics are to begin `anew` in each step, this one does from here on; those made before are reset before.
    """
    if tf.executing_eagerly() or tf.distribute.has_strategy() or not callable(initial_value):
        return make(initial_value=initial_value, **settings)
    with tf.init_scope():  # in which tf.Variable would tell the function
        variable = ResourceVariable(initial_value, **{name: settings[name] for name in _SETTINGS})
    if anew and settings["synchronization"] == tf.VariableSynchronization.ON_READ:  # of metrics alone
        variable.assign(initial_value())
    return variable


def _in_parts(model, train_step, *arguments):
    if not model.optimizer.built:  # no variables are made within a part
        model.optimizer.build(model.trainable_variables)
    with fusing(), _fused_update(model.optimizer):
        return train_step(*arguments)


@contextmanager
def fusing(active: bool = True) -> Iterator[None]:
    """Within, `fuse` compiles, or does not."""
    global _active
    before, _active = _active, active
    try:
        yield
    finally:
        _active = before


def is_fusing() -> bool:
    """Whether `fuse` compiles."""
    return _active


def fuse(function: Callable, *tensors: Any, **settings: Any) -> Any:
    """`function(*tensors, **settings)`; in a step that is compiled in parts, as one part.

    Args:
        function: of a module, so that it is compiled once for each shape; it changes nothing.
        tensors: or None.
        settings: hashable.
    """
    if not _active:
        return function(*tensors, **settings)
    present = tuple(index for index, tensor in enumerate(tensors) if tensor is not None)
    program = _program(function, tuple(sorted(settings.items())), present, len(tensors))
    return program(*(tensors[index] for index in present))


@cache
def _program(function, settings, present, count):
    def call(*given):
        tensors = [None] * count
        for index, tensor in zip(present, given, strict=True):
            tensors[index] = tensor
        with fusing(False):
            return function(*tensors, **dict(settings))

    forward = tf.function(call, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(given, upstream):
        floats = [tensor for tensor in given if tensor.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(floats)
            result = call(*given)
        return tape.gradient(result, floats, upstream, unconnected_gradients="zero")

    @custom_gradient
    def run(*given):
        def gradient(*upstream):
            slopes = iter(backward(given, upstream[0] if len(upstream) == 1 else list(upstream)))
            return [next(slopes) if tensor.dtype.is_floating else None for tensor in given]

        return forward(*given), gradient

    return lambda *given: run(*map(tf.convert_to_tensor, given))


def part(function: Callable) -> Callable:
    """A function that changes variables; in a step that is compiled in parts, as one part."""
    if not _active:
        return function

    def alone(*arguments):
        with fusing(False):
            return function(*arguments)

    return tf.function(alone, jit_compile=True, autograph=False)


@contextmanager
def _fused_update(optimizer: Any) -> Iterator[None]:
    """Within, the optimizer clips and updates as one part."""
    plain = optimizer._backend_apply_gradients

    def apply(gradients, variables):
        part(lambda gradients: plain(gradients, variables))(gradients)

    own = vars(optimizer)
    own["_backend_apply_gradients"] = apply
    try:
        yield
    finally:
        del own["_backend_apply_gradients"]
