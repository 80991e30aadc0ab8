"""Training on a CPU in bfloat16 on TensorFlow: matrix products by oneDNN, and what is between them by XLA.

XLA's own products on a CPU are no faster in bfloat16 than in float32; TensorFlow's, outside XLA, are twice as fast.
So the step stays a TensorFlow graph, in which each run of element-wise work (`fuse`) is compiled as a program of its
own. Its gradient is another, which makes again from the inputs what it needs: no more than inputs and results is kept.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import tensorflow as tf

from kerasllm.backend.processor import multiplies_bfloat16
from kerasllm.backend.tensorflow.gradients import custom_gradient

_active = False


@cache
def _fast_products() -> bool:
    """Returns whether TensorFlow's own products in bfloat16 are faster than XLA's, as on a CPU that multiplies it."""
    if tf.config.list_physical_devices("GPU") or os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return False
    return multiplies_bfloat16()


def in_parts(model: Any) -> bool:
    """Returns whether a model's training step, which `jit_compile` is on for, is compiled in parts."""
    return (
        bool(model.jit_compile)
        and model.compute_dtype == "bfloat16"
        and model.optimizer is not None
        and not tf.distribute.has_strategy()
        and _fast_products()
    )


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
    """Returns whether `fuse` compiles."""
    return _active


def fuse(function: Callable, *tensors: Any, **settings: Any) -> Any:
    """Returns `function(*tensors, **settings)`; in a step that is compiled in parts, it is one part.

    Args:
        function: of a module, so that it is compiled once for each shape; it changes nothing.
        tensors: its positional arguments, tensors or None.
        settings: its other arguments, which are hashable.
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
    """Returns the function, which may change variables; in a step that is compiled in parts, it is one part."""
    if not _active:
        return function

    def alone(*arguments):
        with fusing(False):
            return function(*arguments)

    return tf.function(alone, jit_compile=True, autograph=False)


@contextmanager
def fused_update(optimizer: Any) -> Iterator[None]:
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
