"""The memory of the device, and kernels that repeat their results."""

import os

import keras
import pytest

from kerasllm import backend
from kerasllm.backend import memory
from kerasllm.errors import InputError

MIB = 2**20


def test_on_a_cpu_the_memory_is_that_of_the_process():
    assert backend.memory_in_use() == pytest.approx(memory.in_use(), abs=32 * MIB)
    assert backend.memory_limit() == pytest.approx(memory.limit(), rel=0.5)
    assert backend.memory_limit() > backend.memory_in_use()
    ones = keras.ops.ones((64, MIB // 4), "float32")
    before = backend.memory_in_use()
    peak = backend.peak_memory(lambda: keras.ops.convert_to_numpy(keras.ops.exp(ones) + 1))
    assert 64 * MIB <= peak - before <= 256 * MIB
    if backend.name != "tensorflow":  # whose allocator keeps what is freed
        assert backend.memory_in_use() - before < 16 * MIB


if backend.name == "jax":
    import jax
    from jax._src import xla_bridge

    FLAG = "--xla_gpu_deterministic_ops=true"

    class Device:
        def __init__(self, **figures):
            self.memory_stats = lambda: figures

    def test_the_fullest_accelerator_counts(monkeypatch):
        devices = [
            Device(bytes_limit=9, bytes_in_use=2, peak_bytes_in_use=3),
            Device(bytes_limit=8, bytes_in_use=1, peak_bytes_in_use=7),
        ]
        monkeypatch.setattr(jax, "local_devices", lambda: devices)
        assert backend.memory_limit() == 8
        assert backend.memory_in_use() == 2
        assert backend.peak_memory(lambda: None) == 7

    def test_the_flag_is_set_while_there_are_no_devices(monkeypatch):
        monkeypatch.setenv("XLA_FLAGS", "--other=1")
        monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
        for _ in range(2):
            backend.make_deterministic()
            assert os.environ["XLA_FLAGS"] == f"--other=1 {FLAG}"

    def test_too_late_for_the_flag(monkeypatch):
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        keras.ops.ones(1)
        backend.make_deterministic()  # on a CPU it would change nothing
        assert "XLA_FLAGS" not in os.environ
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        with pytest.raises(InputError, match=rf"too late.*set XLA_FLAGS={FLAG}"):
            backend.make_deterministic()


if backend.name == "torch":
    import torch

    @pytest.fixture
    def as_before():
        before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        )
        yield
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]

    @pytest.mark.usefixtures("as_before")
    def test_deterministic_algorithms(monkeypatch):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
        backend.make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"

    def test_too_late_for_a_workspace(monkeypatch):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        with pytest.raises(InputError, match=r"too late.*set CUBLAS_WORKSPACE_CONFIG=:4096:8"):
            backend.make_deterministic()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ

    def test_the_memory_of_a_gpu(monkeypatch):
        figures = {"memory_reserved": 5, "memory_allocated": 3, "max_memory_reserved": 11}
        for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        for name, value in figures.items():
            monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20, 30))
        assert (backend.memory_limit(), backend.memory_in_use()) == (25, 3)
        assert backend.peak_memory(lambda: None) == 11


if backend.name == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework import config

    def test_deterministic_kernels():
        try:
            backend.make_deterministic()
            assert config.is_op_determinism_enabled()
        finally:
            config.disable_op_determinism()

    def test_the_memory_of_a_gpu(monkeypatch):
        from tensorflow.python.client import device_lib

        class Device:
            def __init__(self, name, kind, limit):
                self.name, self.device_type, self.memory_limit = name, kind, limit

        figures = {"GPU:0": {"current": 4, "peak": 9}, "GPU:1": {"current": 6, "peak": 7}}
        devices = [Device(f"/device:{name}", "GPU", 20) for name in figures]
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
        monkeypatch.setattr(
            device_lib, "list_local_devices", lambda: [*devices, Device("/device:CPU:0", "CPU", 1)]
        )
        monkeypatch.setattr(tf.config.experimental, "get_memory_info", figures.__getitem__)
        anew = []
        monkeypatch.setattr(tf.config.experimental, "reset_memory_stats", anew.append)
        assert (backend.memory_limit(), backend.memory_in_use()) == (20, 6)
        assert backend.peak_memory(lambda: None) == 9 and anew == list(figures)
