"""The memory of the device on PyTorch, its TF32, and kernels that repeat their results bit by bit."""

import os
from typing import Any

import torch

from kerasllm.backend import memory
from kerasllm.errors import InputError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_DETERMINISTIC = (":4096:8", ":16:8")


def memory_limit():
    """Returns the bytes of the GPU that are free or this process's own, or of this process on a CPU."""
    if not torch.cuda.is_available():
        return memory.limit()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()


def memory_in_use():
    """Returns the bytes in use on the GPU, or of this process on a CPU."""
    memory_of_process = memory.in_use()  # collects garbage, too
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else memory_of_process


def peak_memory(function):
    """Returns the peak on the GPU, with what lies between tensors, or of this process on a CPU."""
    if not torch.cuda.is_available():
        return memory.peak_during(function)
    memory.in_use()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved()


def make_deterministic():
    """Chooses deterministic algorithms, and for cuBLAS a workspace, which it reads before its first product.

    Reference: https://docs.pytorch.org/docs/stable/notes/randomness.html.
    """
    if os.environ.get(_WORKSPACE) not in _DETERMINISTIC:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            raise InputError(
                f"--deterministic comes too late, as PyTorch has its GPU already: set {_WORKSPACE}={_DETERMINISTIC[0]} "
                "before"
            )
        os.environ[_WORKSPACE] = _DETERMINISTIC[0]
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False  # nothing here reads what it has not written
    torch.backends.cudnn.benchmark = False


def allow_tf32(allowed):
    """Sets it for cuBLAS and cuDNN, which else has its own default; GPUs have it from Ampere on."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
