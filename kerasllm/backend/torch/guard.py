"""Guarded steps on PyTorch: after a bad backward pass the optimizer is simply not called."""

import math
import weakref

import keras
import torch

from kerasllm.backend.gradient_watch import can_watch, seed_states, watch
from kerasllm.backend.torch.sharding import is_divided, norm_of_all

# Of each model; finding them takes longer than copying.
_seed_states: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def guarded_step(model, train_step, *arguments):
    """Returns the step's results; after a bad backward pass the optimizer is not called."""
    if not can_watch(model):
        return train_step(*arguments)
    optimizer, losses, norms = model.optimizer, [], []
    if model not in _seed_states:
        _seed_states[model] = [variable.value for variable in seed_states(model)]
    states = _seed_states[model]
    before = [state.clone() for state in states]

    def on_loss(loss):
        losses.append(loss.detach())
        return loss

    def on_gradients(apply, gradients, variables) -> None:
        norms_of_each = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
        norm = torch.linalg.vector_norm(torch.stack(norms_of_each))
        norm = norm_of_all(norm) if is_divided(model) else norm
        # A loss of infinity may have a gradient that is finite.
        norms.append(norm if math.isfinite(losses[0]) else norm * math.nan)
        if math.isfinite(norms[0]):
            apply(gradients, variables)
            return
        if optimizer.gradient_accumulation_steps:
            apply([g if g is None else torch.zeros_like(g) for g in gradients], variables)
        else:
            optimizer.iterations.assign(keras.ops.add(optimizer.iterations, 1))
        for state, old in zip(states, before, strict=True):
            state.copy_(old)

    with watch(optimizer, on_loss, on_gradients):
        logs = train_step(*arguments)
    return {**logs, "gradient_norm": norms[0]} if norms else logs
