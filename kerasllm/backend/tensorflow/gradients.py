"""Gradients written out, for TensorFlow, which go with the graph that they are of.

TensorFlow enters each gradient of `tf.custom_gradient` in a table under a name of its own, for good, and with it
the graph that was traced: 80,000 objects and some 60 MB for a BERT's step, which every later garbage collection
goes through. Here the table has a weak reference, and the graph the strong one.
"""

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops

_table = ops.gradient_registry._registry


def custom_gradient(function: Callable) -> Callable:
    """Decorates a function of tensors as `tf.custom_gradient` does, without keeping its graph alive."""
    run = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*tensors):
        results = run(*tensors)
        if not tf.executing_eagerly():
            first = tf.nest.flatten(results)[0]
            _bind(first.graph, first.op.get_attr("_gradient_op_type").decode())
        return results

    return call


@contextmanager
def bound_to_graph() -> Iterator[None]:
    """Does the same for all that is traced within, such as the sum over replicas of Keras' optimizers."""
    before = set(_table)
    yield
    if not tf.executing_eagerly():
        for name in set(_table) - before:
            if name.startswith("CustomGradient-"):
                _bind(tf.compat.v1.get_default_graph(), name)


def _bind(graph: Any, name: str) -> None:
    gradient = _table[name]["type"]
    if getattr(gradient, "bound", False):
        return
    # The graph and its gradients refer to one another now, which garbage collection ends.
    if not hasattr(graph, "_kerasllm_gradients"):
        graph._kerasllm_gradients = []
    graph._kerasllm_gradients.append(gradient)
    reference = weakref.ref(gradient)

    def call(op, *upstream):
        return reference()(op, *upstream)  # type: ignore[misc]

    call.bound = True  # type: ignore[attr-defined]
    _table[name]["type"] = call
    weakref.finalize(gradient, _table.pop, name, None).atexit = False
