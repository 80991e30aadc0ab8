"""The memory of the devices on JAX, their TF32, and kernels that repeat their results bit by bit."""

import os
from typing import Any

import jax

from kerasllm.backend import memory
from kerasllm.errors import InputError

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_TF32 = "tensorfloat32"


def _statistics(name: str) -> list[int]:
    """Returns a figure of each accelerator of this process; a CPU has none."""
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    return [figures[name] for figures in found if name in figures]


def memory_limit():
    """Returns the bytes of the smallest accelerator's pool, or of this process on a CPU."""
    return min(_statistics("bytes_limit"), default=None) or memory.limit()


def memory_in_use():
    """Returns the bytes in use of the fullest accelerator, or of this process on a CPU."""
    memory_of_process = memory.in_use()  # collects garbage, too
    return max(_statistics("bytes_in_use"), default=memory_of_process)


def peak_memory(function):
    """Returns the peak on the fullest accelerator, since the process began, or of this process on a CPU."""
    memory_of_process = memory.peak_during(function)
    return max(_statistics("peak_bytes_in_use"), default=memory_of_process)


def make_deterministic():
    """Sets a flag of XLA's, which reads it as JAX finds its devices; on a CPU it changes nothing."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC in flags.split():
        return
    from jax._src import xla_bridge  # nothing public tells it without finding devices

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
    elif jax.default_backend() != "cpu":
        raise InputError(
            f"--deterministic comes too late, as JAX has its devices already: set XLA_FLAGS={_DETERMINISTIC} before"
        )


def allow_tf32(allowed):
    """Sets JAX's default, which `products` heeds; a default that the user has set stays where it is not allowed."""
    config: Any = jax.config
    if allowed or config.jax_default_matmul_precision == _TF32:
        jax.config.update("jax_default_matmul_precision", _TF32 if allowed else None)
    return jax.default_backend() == "gpu"
