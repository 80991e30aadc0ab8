"""Compares the arithmetic of training with the fastest matrix product of the machine.

Their ratio is the model FLOP/s utilization, MFU. It counts the arithmetic that the model needs, not what is computed:
padding, and scores at positions that are not predicted, do not count.

Reference: Chowdhery et al. 2022, "PaLM", https://arxiv.org/abs/2204.02311, appendix B.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from kerasllm import backend

_SECONDS = 0.4  # time for measured products, warm-up excluded
_LONG_ENOUGH = 0.01  # seconds; a product that takes so long keeps the machine busy
_SIZES = (512, 1024, 2048, 4096, 8192)
_AGREEMENT = 0.75  # of the second highest peak with the highest
_SECONDS_BETWEEN_MEASUREMENTS = 5.0
_MOST_MEASUREMENTS = 5


class Utilization:
    """The share of the machine's peak that a training uses, from the tokens per second that it makes.

    A peak that is measured while the machine is busy is too low, and shares of it are too high. It is therefore
    measured again some seconds later, and a share is given only once the two highest peaks agree and the training
    does not exceed them; after `_MOST_MEASUREMENTS` there is no share.

    Args:
        precision: a Keras dtype policy, in which the model computes.
        flops_per_token: FLOPs of a training step per token, see the function `flops_per_token`.
    """

    def __init__(self, precision: str, flops_per_token: float) -> None:
        self.precision = precision
        self.flops_per_token = flops_per_token
        self._peaks = [matrix_product_peak(precision)]
        self._measured_at = time.monotonic()

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> Utilization:
        """Returns the utilization of a model's training.

        Args:
            model: the model to train.
            inputs: the inputs of a batch.
        """
        return cls(model.dtype_policy.name, flops_per_token(model, inputs))

    def share(self, tokens_per_second: float) -> float | None:
        """Returns the MFU at a speed, above 0 and at most 1, or None if it cannot be told.

        Args:
            tokens_per_second: the speed of the training, of all devices together.
        """
        flops = tokens_per_second * self.flops_per_token / backend.device_count()  # a device's
        due = time.monotonic() - self._measured_at > _SECONDS_BETWEEN_MEASUREMENTS
        if due and not self._believable(flops) and len(self._peaks) < _MOST_MEASUREMENTS:
            try:
                self._peaks.append(measure_peak(self.precision))
            except Exception:  # such as a device without memory left, which must not end a training
                self._peaks.append(0.0)
            self._measured_at = time.monotonic()
        return flops / max(self._peaks) if self._believable(flops) else None

    def _believable(self, flops: float) -> bool:
        """Returns whether the two highest peaks agree and are not exceeded."""
        *_, second, highest = 0.0, *sorted(self._peaks)
        return second >= _AGREEMENT * highest and 0 < flops <= highest


@lru_cache
def matrix_product_peak(precision: str) -> float:
    """Returns the result of `measure_peak`, which is measured once per process.

    Args:
        precision: a Keras dtype policy, such as "float32" or "mixed_bfloat16".
    """
    return measure_peak(precision)


def measure_peak(precision: str) -> float:
    """Returns the FLOP/s of the fastest square matrix product that is found in half a second.

    The products are computed as in a training step. Sizes double from 512 to 2,048, and further until a product takes
    10 ms, so that a GPU gets large ones.

    Args:
        precision: a Keras dtype policy, such as "float32" or "mixed_bfloat16".
    """
    dtype = keras.dtype_policies.get(precision).compute_dtype
    numbers = np.random.default_rng(0).standard_normal((2, _SIZES[0], _SIZES[0]), dtype=np.float32)
    best = spent = seconds = 0.0
    for size in _SIZES:
        times = size // _SIZES[0]
        left, right = (keras.ops.cast(np.tile(part, (times, times)), dtype) for part in numbers)
        _multiply(left, right)  # warm-up: JAX compiles for each size, others start threads
        for _ in range(3):
            seconds = _multiply(left, right)
            spent += seconds
            best = max(best, 2 * size**3 / seconds)
            if spent > _SECONDS:
                return best
        busy = seconds > _LONG_ENOUGH and size >= 2048
        if busy or spent + 16 * seconds > 2 * _SECONDS:  # too slow for two of the next size
            break
    return best


def _multiply(left: Any, right: Any) -> float:
    """Returns the seconds that one product takes."""
    began = time.perf_counter()
    product = backend.matrix_product(left, right)
    # Reading a value waits for a device that works asynchronously.
    keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32"))
    return time.perf_counter() - began


def flops_per_token(model: Any, inputs: Mapping[str, Any]) -> float:
    """Returns the FLOPs of a training step per token, see `LanguageModel.training_flops`.

    Args:
        model: the model to train.
        inputs: the inputs of a batch, which give the length and, by `masked_positions`, the number of predictions.
    """
    slots = inputs["masked_positions"].shape[-1] if "masked_positions" in inputs else None
    tokens = inputs["encoder_token_ids" if "encoder_token_ids" in inputs else "token_ids"]
    return model.training_flops(tokens.shape[-1], slots)
