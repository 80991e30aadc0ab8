"""The optimizer's update on PyTorch as a compiled program, with clipping, schedule and guard in it.

Keras' own update is recorded as it is, its state stays where it is, and the program changes weights and state in
place. Uncompiled it takes some hundred operators a step, most of the time of a small model's; and each of them goes
through the memory of all weights, so that of 3 million weights in 52 variables it took 44 ms in place of 6 (one core
of an AMD EPYC, Zen 4).
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import keras
import torch
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from kerasllm.backend.gradient_watch import global_norm
from kerasllm.backend.torch.parts import by_layers, compiled_in_parts, whole

_SETTINGS = (bool, int, float, str, type(None))
_PACKAGES = ("keras", "kerasllm")


def settings_of(optimizer: Any) -> tuple[Any, ...] | None:
    """Returns what an update depends on beside the variables; None if it is not to be recorded.

    What is not Keras' or ours may count steps in Python, for instance, and is called at each of them. An accumulated
    gradient makes two kinds of steps.
    """
    own, rate = vars(optimizer), optimizer._learning_rate
    packages = {type(each).__module__.partition(".")[0] for each in (optimizer, rate)}
    if not packages <= set(_PACKAGES) or {"apply", "scale_loss"} & own.keys():
        return None
    if own.get("gradient_accumulation_steps") or own.get("ema_overwrite_frequency"):
        return None
    settings = [value for value in own.values() if isinstance(value, _SETTINGS)]
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return (rate, *settings, *(value for value in vars(rate).values() if isinstance(value, _SETTINGS)))
    return tuple(settings)


def compiled(
    optimizer: Any, trainable: list[Any], guarded: bool, arguments: tuple[torch.Tensor, ...]
) -> Callable[..., list[torch.Tensor]]:
    """Returns the update as a program of loss, gradients, weights and the optimizer's variables, which it changes.

    It returns the global norm of the gradients and whether loss and gradients are finite. If they are not, nothing but
    the count of steps changes. What is not guarded always changes, and nothing is returned.

    Args:
        optimizer: the optimizer, which is built.
        trainable: the variables of the weights.
        guarded: whether the program is guarded.
        arguments: its arguments, of which the shapes count.
    """
    from kerasllm.backend.torch import compiler

    count = len(trainable)

    def record(loss: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        gradients, before = list(others[:count]), others[count:]
        results: list[torch.Tensor] = []
        if guarded:
            # A loss of infinity may have a gradient that is finite.
            norm = global_norm(gradients)
            norm = torch.where(torch.isfinite(loss), norm, norm * float("nan"))
            results = [norm, torch.isfinite(norm)]
        variables = [*trainable, *optimizer.variables]
        copies = [value.clone() for value in before]  # which Keras' own update changes in place
        with keras.StatelessScope(state_mapping=zip(variables, copies, strict=True)) as scope:
            optimizer.apply(gradients, trainable)
        for variable, old in zip(variables, before, strict=True):
            new = scope.get_current_value(variable)
            if guarded and variable is not optimizer.iterations:
                new = torch.where(results[1], new, old)
            old.copy_(new)
        return results

    on_cpu = all(argument.device.type == "cpu" for argument in arguments)
    one_by_one = _one_by_one() if on_cpu else {}
    with compiler.short_cuts() if on_cpu else nullcontext():
        make = make_fx(
            functionalize(record, remove="mutations"),
            {**compiler.decompositions(), **one_by_one},
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
        )
        graph = make(*(argument.detach() for argument in arguments))
        graph.graph.eliminate_dead_code()
        graph.recompile()
        layers = [variable.path.rpartition("/")[0] for variable in trainable]
        layers = ["loss", *layers, *layers, *range(len(optimizer.variables))]
        parts = by_layers(graph, layers) if on_cpu else whole(graph)
        return compiled_in_parts(graph, parts, compiler.by_inductor)


def _one_by_one() -> dict[Any, Callable[..., Any]]:
    """Returns the operators on lists of tensors, by which Keras' optimizers update, as operators on each of them."""
    names = ["add", "sub", "mul", "div", "sqrt", "neg", "abs", "sign", "maximum", "minimum", "pow", "lerp"]
    names += ["addcmul", "addcdiv", "reciprocal", "clamp_min", "clamp_max"]
    found: dict[Any, Callable[..., Any]] = {}
    for name in names:
        packet = getattr(torch.ops.aten, f"_foreach_{name}", None)
        for overload in packet.overloads() if packet is not None else ():
            found[getattr(packet, overload)] = partial(_each, getattr(torch, name))
    return found


def _each(function: Callable[..., Any], tensors: list[torch.Tensor], *others: Any, **settings: Any) -> Any:
    """Returns the results for each tensor; what is given as a list has an entry for each."""
    rows = [other if isinstance(other, list | tuple) else [other] * len(tensors) for other in others]
    return [function(*row, **settings) for row in zip(tensors, *rows, strict=True)]
