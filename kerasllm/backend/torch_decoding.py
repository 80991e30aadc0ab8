"""Decoding for PyTorch: a step is traced once a shape, then replayed without Python, over caches written in place.

Of a step of a small model on a CPU, Keras' and Python's bookkeeping takes 4.5 ms and the replayed operations
0.3 ms. Tracing goes through the operators (`make_fx`), where shapes are plain numbers, so that the model's code
need not know of it; TorchScript only replays what came out.
"""

import functools
import warnings

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from kerasllm.backend.torch_products import product_with_transpose


def compiled(function):
    """The function without gradients.

    Args:
        function: of (nested) tensors and whole numbers.
    """

    @functools.wraps(function)
    def call(*arguments):
        with torch.no_grad():
            return function(*arguments)

    return call


def repeated(step, finished):
    """A loop over `step`, which is traced anew for each shape of its arguments.

    Args:
        step: from (weights, inputs, state) to the next state, of the same shapes.
        finished: from a state to a boolean scalar.

    Returns:
        A function of (weights, inputs, state, count) that takes at most `count` steps and stops before one if the
        state is finished. The state it is given is used up.
    """
    traced = {}

    @torch.no_grad()
    def program(weights, inputs, state, count):
        leaves, form = pytree.tree_flatten((weights, inputs, state))
        changing, form_of_state = pytree.tree_flatten(state)
        fixed = leaves[: len(leaves) - len(changing)]
        shapes = tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)
        for _ in range(int(count)):
            if bool(finished(state)):
                break
            if shapes not in traced:
                traced[shapes] = _traced(step, form, leaves)
            changing = traced[shapes](*fixed, *changing)
            state = pytree.tree_unflatten(changing, form_of_state)
        return state

    return program


def _traced(step, form, leaves):
    def flat(*leaves):
        return pytree.tree_leaves(step(*pytree.tree_unflatten(leaves, form)))

    graph = make_fx(flat)(*leaves)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript will not grow any more
        # Otherwise it keeps the tensors that it was traced with, weights among them.
        return torch.jit.trace(graph, tuple(leaves), check_trace=False, _store_inputs=False)


def scores(hidden, table):
    """(rows, hidden_dim) and (vocabulary, hidden_dim) → (rows, vocabulary)."""
    return product_with_transpose(hidden, table)


def argmax(logits):
    """The first of the largest of each row, (rows, vocabulary) → int32 (rows,)."""
    return torch.argmax(logits, dim=-1).int()
