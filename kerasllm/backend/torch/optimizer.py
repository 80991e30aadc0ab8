"""Keras' AdamW in PyTorch's fused kernel; state, schedule and everything else remain Keras' own."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import keras
import numpy as np
import torch

_DONE = 1e9  # steps after which nothing is left of a bias correction in the kernel: Keras' own is made here


def fuse(optimizer) -> None:
    """Makes an optimizer clip and update in single passes, if it is an AdamW or Adam of the plain kind.

    Only the instance is changed, once: a subclass, or one with AMSGrad, averages or sparse gradients, stays as it
    is. The updates are equal to Keras' own up to rounding.
    """
    own = vars(optimizer)
    if "_parallel_update_step" in own or not _is_plain(optimizer):
        return
    own["_parallel_update_step"] = partial(_update, optimizer)
    own["_apply_weight_decay"] = lambda variables: None  # the kernel's
    if optimizer.global_clipnorm and not optimizer.clipnorm and not optimizer.clipvalue:
        own["_clip_gradients"] = partial(_clip, optimizer)


def _is_plain(optimizer) -> bool:
    kinds = {type(cls()) for cls in (keras.optimizers.Adam, keras.optimizers.AdamW)}
    return type(optimizer) in kinds and not optimizer.amsgrad and not optimizer.use_ema


_norm: torch.Tensor | None = None


def gradient_norm(gradients) -> torch.Tensor:
    """Returns the norm of all gradients together; None among them is passed over."""
    norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
    return torch.linalg.vector_norm(torch.stack(norms))


@contextmanager
def known_norm(norm: torch.Tensor) -> Iterator[None]:
    """Lets clipping use `norm`, which is known already, within the context."""
    global _norm
    _norm = norm
    try:
        yield
    finally:
        _norm = None


def _clip(optimizer, gradients):
    """Returns the gradients as they are; the kernel scales them down to the largest global norm as it reads them."""
    norm = gradient_norm(gradients) if _norm is None or optimizer.gradient_accumulation_steps else _norm
    limit = optimizer.global_clipnorm
    vars(optimizer)["_divisor"] = norm / limit if norm > limit else None
    return gradients


def _update(optimizer, gradients, variables, learning_rate):
    rate = np.float32(float(learning_rate))
    step = np.float32(int(keras.ops.convert_to_tensor(optimizer.iterations)) + 1)
    # In float32 and in this order, as Keras computes it on every backend.
    power_1, power_2 = np.float32(optimizer.beta_1) ** step, np.float32(optimizer.beta_2) ** step
    one = np.float32(1)
    alpha = float(rate * np.sqrt(one - power_2) / (one - power_1))
    decay = optimizer.weight_decay or 0.0
    groups: dict[bool, list[tuple]] = {True: [], False: []}
    for gradient, variable in zip(gradients, variables, strict=True):
        index = optimizer._get_variable_index(variable)
        state = optimizer._momentums[index].value, optimizer._velocities[index].value
        decays = bool(decay) and optimizer._use_weight_decay(variable)
        # The kernel goes through the memory of all four in step, whatever their strides say.
        groups[decays].append((variable.value.data, gradient.contiguous(), *state))
    for decays, group in groups.items():
        if not group:
            continue
        values, gradients, momentums, velocities = map(list, zip(*group, strict=True))
        done = torch.tensor(_DONE, device=values[0].device)
        torch._fused_adamw_(
            values,
            gradients,
            momentums,
            velocities,
            [],
            [done] * len(values),
            lr=alpha,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            # The kernel's decay is lr * weight_decay, Keras' is that of the rate without corrections.
            weight_decay=decay * float(rate) / alpha if decays and alpha else 0.0,
            eps=optimizer.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=vars(optimizer).get("_divisor"),
        )
