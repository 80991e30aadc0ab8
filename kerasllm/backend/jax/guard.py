"""Guarded steps on JAX: a step is a function from state to state, so a bad one returns the state that it was given."""

from typing import Any

import jax.numpy as jnp

from kerasllm.backend.gradient_watch import can_watch, global_norm, poison_if_bad, watch


def guarded_step(model, train_step, *arguments):
    """Returns the step's results; XLA fuses the choice into the update, so that no pass over the weights is added."""
    if not can_watch(model):
        return train_step(*arguments)
    state, data = arguments
    optimizer, norms = model.optimizer, []
    accumulates = bool(optimizer.gradient_accumulation_steps)

    def on_gradients(apply, gradients, variables) -> None:
        norm = global_norm(gradients)
        norms.append(norm)
        if accumulates:
            gradients = [jnp.where(jnp.isfinite(norm), g, jnp.zeros_like(g)) for g in gradients]
        apply(gradients, variables)

    with watch(optimizer, poison_if_bad, on_gradients):
        logs, after = train_step(state, data)
    if not norms:  # nothing is trainable
        return logs, after
    good = jnp.isfinite(norms[0])

    def choose(new: Any, old: Any) -> list[Any]:
        return [n if n is o else jnp.where(good, n, o) for n, o in zip(new, old, strict=True)]

    trainable, non_trainable, optimizer_variables, metrics = after
    non_trainable = choose(non_trainable, state[1])
    if not accumulates:
        trainable = choose(trainable, state[0])
        counts = [variable is optimizer.iterations for variable in optimizer.variables]
        chosen = choose(optimizer_variables, state[2])
        optimizer_variables = [
            new if count else value
            for count, new, value in zip(counts, optimizer_variables, chosen, strict=True)
        ]
    logs = {**logs, "gradient_norm": norms[0]}
    return logs, (trainable, non_trainable, optimizer_variables, metrics)
