"""Blocks whose inner values are computed again in the backward pass, instead of being kept from the forward pass."""

from typing import Any

from kerasllm import backend


def run_block(
    block: Any, hidden: Any, *others: Any, training: Any = False, recompute: bool = False, **given: Any
) -> Any:
    """Returns `block(hidden, *others, training=training, **given)`, of which training may keep the input alone.

    Then the memory of a model's inner values no longer grows with its layers, but for their inputs, and a step takes up
    to a third longer. Dropout draws the same numbers again.

    Args:
        block: a layer that is built.
        hidden: its input, to which gradients flow.
        others: further arguments, to which no gradients flow.
        training: whether there is dropout.
        recompute: whether inner values are computed again; in training alone.
        given: other arguments; gradients flow to `encoder_hidden` among them.

    Reference: Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    if not (recompute and training):
        return block(hidden, *others, training=training, **given)
    encoded = given.pop("encoder_hidden", None)
    inputs = [hidden] if encoded is None else [hidden, encoded]
    # Divided weights are gathered within the block, and again in the backward pass.
    trained = backend.differentiated(block.trainable_variables)
    states = [some for some in block.non_trainable_variables if not hasattr(some, "divided")]

    def compute(weights: Any, values: Any, inputs: Any) -> Any:
        mapping = zip((*trained, *states), (*weights, *values), strict=True)
        more = {} if encoded is None else {"encoder_hidden": inputs[1]}
        with backend.stateless(mapping) as scope:
            result = block(inputs[0], *others, training=training, **given, **more)
        return result, [scope.get_current_value(variable) for variable in states]

    values = [[variable.value for variable in some] for some in (trained, states)]
    result, after = backend.recomputed(compute, *values, inputs)
    for variable, value in zip(states, after, strict=True):
        variable.assign(value)
    return result
