"""Chooses the precision of training: float32, or bfloat16 if the machine is faster with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import keras

from kerasllm import backend

PRECISIONS = ("float32", "mixed_bfloat16")


def choose_precision(
    asked: str, make_model: Callable[[], keras.Model], batch: tuple[Any, ...], steps: int = 4
) -> str:
    """Sets Keras' dtype policy to the precision asked for; "auto" measures both and chooses the faster one.

    Products of float32 are exact to float32's bits on a GPU, too, but for "tf32", where it may round their factors.

    Args:
        asked: "float32", "tf32", "mixed_bfloat16" or "auto".
        make_model: function that returns a compiled model under the current policy; called for "auto" only.
        batch: inputs, labels and weights for `train_on_batch`.
        steps: measured steps in each precision, after one that compiles; the fastest counts.

    Returns:
        The precision that was set.
    """
    has_tf32 = backend.allow_tf32(asked == "tf32")
    if asked == "tf32" and not has_tf32:
        print("precision: no device here has TF32, products are float32", file=sys.stderr, flush=True)
    if asked != "auto":
        keras.config.set_dtype_policy("float32" if asked == "tf32" else asked)
        return asked
    print("precision: measuring float32 and mixed_bfloat16 …", file=sys.stderr, flush=True)
    seconds = {}
    for precision in PRECISIONS:
        keras.config.set_dtype_policy(precision)
        model = make_model()
        times = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            model.train_on_batch(*batch)
            times.append(time.perf_counter() - began)
        seconds[precision] = min(times[1:])
    chosen = min(seconds, key=seconds.__getitem__)
    keras.config.set_dtype_policy(chosen)
    shown = ", ".join(f"{name} {value * 1e3:.1f} ms a step" for name, value in seconds.items())
    print(f"precision: {chosen} ({shown})", file=sys.stderr)
    return chosen
