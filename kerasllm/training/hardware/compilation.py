"""Decides whether a run's training step is compiled, which on PyTorch depends on the length of the run."""

from __future__ import annotations

from kerasllm import backend
from kerasllm.errors import InputError

FROM_STEPS = 500
FROM_FLOPS = 1e13
"""Optimizer steps, or FLOPs, from which PyTorch's compilation is worth the 10 to 20 s that it takes."""


def choose_compilation(asked: bool | None, steps: int, flops: float = 0.0, shapes: int = 1) -> bool | str:
    """Returns the `jit_compile` argument for a run.

    It depends on the run alone, not on the current speed of the machine, so that a run can be repeated.

    Args:
        asked: the user's choice; None compiles always on JAX and TensorFlow, and on PyTorch if there is a C++ compiler
            and the run has `FROM_STEPS` steps or `FROM_FLOPS` for each shape.
        steps: optimizer steps of the whole run.
        flops: floating-point operations of the whole run's training, see `LanguageModel.training_flops`.
        shapes: number of shapes that batches have; each is compiled by itself.

    Raises:
        InputError: compilation is asked for, and there is no compiler.
    """
    if asked is False:
        return False
    if asked and not backend.can_compile():
        raise InputError(
            "--jit_compile true needs a C++ compiler and Python's headers on PyTorch: install g++ and python3-dev, "
            "or leave it out"
        )
    long_enough = steps >= FROM_STEPS * shapes or flops >= FROM_FLOPS * shapes
    if asked or (backend.name == "torch" and long_enough and backend.can_compile()):
        return True
    return backend.jit_compile
