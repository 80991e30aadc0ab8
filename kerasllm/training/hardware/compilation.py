"""Whether a run's training step is compiled, where that is a question of how long the run is."""

from __future__ import annotations

from kerasllm import backend
from kerasllm.errors import InputError

FROM_STEPS = 500
FROM_FLOPS = 1e13
"""Steps, or arithmetic, from which on PyTorch's compilation, which takes 10 to 20 s, pays."""


def choose_compilation(asked: bool | None, steps: int, flops: float = 0.0, shapes: int = 1) -> bool | str:
    """The `jit_compile` of a run.

    It depends on the run alone, never on how fast the machine is just now, or no run could be repeated.

    Args:
        asked: what the user says; None: on PyTorch from `FROM_STEPS` steps or `FROM_FLOPS` on, for each shape, where
            there is a C++ compiler, and always on JAX and TensorFlow.
        steps: of the whole run.
        flops: of the whole run's training, see `LanguageModel.training_flops`.
        shapes: of the batches; each is a compilation.

    Raises:
        InputError: it is asked for, and there is no compiler.
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
