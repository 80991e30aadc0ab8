"""Batches of a PyDataset as PyTorch's tensors, without the detour by which Keras has PyTorch load them."""

from typing import Any

import keras
import torch

_SHARED = ("int32", "int64", "float32", "bool")  # NumPy's types whose memory a tensor takes as it is


def loading(batches: Any) -> Any:
    """Returns a loader that gives the same batches in their order, or `batches` itself if that is not a plain data set.

    Keras converts a batch in two passes through general code, which takes a fifth of a millisecond. A data set with
    workers, without a length, or with work of its own between epochs stays with Keras.
    """
    plain = keras.utils.PyDataset
    if not isinstance(batches, plain) or not hasattr(batches, "__len__"):
        return batches
    if batches.workers > 1 or batches.use_multiprocessing or not len(batches):
        return batches
    hooks = ("on_epoch_begin", "on_epoch_end", "__iter__", "num_batches")
    if any(getattr(type(batches), hook) is not getattr(plain, hook) for hook in hooks):
        return batches
    return _Loader(batches, batch_size=None)


class _Loader(torch.utils.data.DataLoader):
    def __iter__(self) -> Any:
        torch.empty((), dtype=torch.int64).random_()  # as every loader draws from the global generator
        batches: Any = self.dataset
        device = torch.device(keras.ops.zeros(()).device)
        for index in range(len(batches)):
            yield _tensors(_standard(batches[index]), device)


def _standard(batch: Any) -> Any:
    """Returns a batch as Keras' steps take it."""
    if isinstance(batch, dict | tuple):
        return batch
    return tuple(batch) if isinstance(batch, list) else (batch,)


def _tensors(value: Any, device: torch.device) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: _tensors(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_tensors(each, device) for each in value])
    if getattr(value, "dtype", None) not in _SHARED or not value.flags.writeable:
        return keras.ops.convert_to_tensor(value)
    tensor = torch.from_numpy(value)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
