"""Whether a run's training step is compiled, where that is a question of how long the run is."""

from __future__ import annotations

from kerasllm import backend
from kerasllm.errors import InputError

FROM_STEPS = 1_000
"""Steps from which on PyTorch's compilation, of ten to forty seconds, pays."""


def choose_compilation(asked: bool | None, steps: int) -> bool | str:
    """The `jit_compile` of a run.

    Args:
        asked: what the user says; None: on PyTorch from `FROM_STEPS` steps on, where there is a C++ compiler, and
            always on JAX and TensorFlow.
        steps: of the whole run.

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
    if asked or (backend.name == "torch" and steps >= FROM_STEPS and backend.can_compile()):
        return True
    return backend.jit_compile
