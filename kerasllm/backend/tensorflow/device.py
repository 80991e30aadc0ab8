"""The memory of the device on TensorFlow, its TF32, and kernels that repeat their results bit by bit."""

import tensorflow as tf

from kerasllm.backend import memory


def _gpus() -> list[str]:
    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]


def memory_limit():
    """Returns the bytes of the smallest GPU's pool, or of this process on a CPU."""
    if not _gpus():
        return memory.limit()
    from tensorflow.python.client import device_lib  # nothing public tells the size of the pool

    return min(
        device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"
    )


def memory_in_use():
    """Returns the bytes in use on the fullest GPU, or of this process on a CPU."""
    memory_of_process = memory.in_use()  # collects garbage, too
    used = [tf.config.experimental.get_memory_info(name)["current"] for name in _gpus()]
    return max(used, default=memory_of_process)


def peak_memory(function):
    """Returns the peak on the fullest GPU, or of this process on a CPU."""
    for name in _gpus():
        tf.config.experimental.reset_memory_stats(name)
    memory_of_process = memory.peak_during(function)
    peaks = [tf.config.experimental.get_memory_info(name)["peak"] for name in _gpus()]
    return max(peaks, default=memory_of_process)


def make_deterministic():
    """Chooses deterministic kernels."""
    tf.config.experimental.enable_op_determinism()


def allow_tf32(allowed):
    """Sets it; TensorFlow's own default is to allow it."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    return bool(tf.config.list_physical_devices("GPU"))
