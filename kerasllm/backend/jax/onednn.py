"""Calls oneDNN's matrix product for NumPy arrays by the C interface that the package `onednn-cpu-gomp` brings.

Reference: https://uxlfoundation.github.io/oneDNN/dev_guide_matmul.html.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from threading import Lock
from typing import Any

import numpy as np

from kerasllm.backend.processor import multiplies_bfloat16

PACKAGE = "onednn-cpu-gomp"
_CPU, _IN_ORDER = 1, 1
_TYPES = {"bfloat16": 2, "float32": 3}
_SOURCE, _WEIGHTS, _DESTINATION = 1, 33, 17
_one_at_a_time = Lock()


def available() -> bool:
    """Returns whether the library is installed."""
    return _library() is not None


def multiplies_fast(left: str, right: str) -> bool:
    """Returns whether arrays of these types can be multiplied, and in the processor's own instructions."""
    return left == right and (left == "float32" or (left == "bfloat16" and multiplies_bfloat16()))


@cache
def _library() -> ctypes.CDLL | None:
    try:
        files = distribution(PACKAGE).files or []
        return ctypes.CDLL(next(str(file.locate()) for file in files if file.name == "libdnnl.so.3"))
    except (PackageNotFoundError, StopIteration, OSError):
        return None


class _Argument(ctypes.Structure):
    _fields_ = (("index", ctypes.c_int), ("memory", ctypes.c_void_p))


def multiply(left: np.ndarray, right: np.ndarray, product: np.ndarray) -> None:
    """Writes `left @ right` into `product`: views in any order of axes, bfloat16 or float32, summed in float32.

    Args:
        left: (..., rows, inner).
        right: (..., inner, columns), the first axes as `left`'s.
        product: (..., rows, columns).

    Raises:
        RuntimeError: oneDNN refuses these shapes or types.
    """
    arrays = (left, right, product)
    layout = tuple((array.shape, array.strides, array.dtype.name) for array in arrays)
    with _one_at_a_time:
        primitive, stream, memories, arguments = _primitive(layout)
        for memory, array in zip(memories, arrays, strict=True):
            _call("dnnl_memory_set_data_handle", memory, ctypes.c_void_p(array.ctypes.data))
        _call("dnnl_primitive_execute", primitive, stream, len(arrays), arguments)
        _call("dnnl_stream_wait", stream)


@cache
def _engine() -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    engine = _new("dnnl_engine_create", _CPU, ctypes.c_size_t(0))
    return engine, _new("dnnl_stream_create", engine, _IN_ORDER)


@cache
def _primitive(layout: tuple) -> tuple[Any, ...]:
    """Returns the product for arrays of a layout, whose parts are made once and kept."""
    engine, stream = _engine()
    descriptions = [_description(*array) for array in layout]
    left, right, product = descriptions
    recipe = _new("dnnl_matmul_primitive_desc_create", engine, left, right, None, product, None)
    primitive = _new("dnnl_primitive_create", recipe)
    memories = [_new("dnnl_memory_create", description, engine, None) for description in descriptions]
    places = zip((_SOURCE, _WEIGHTS, _DESTINATION), memories, strict=True)
    arguments = (_Argument * len(layout))(*(_Argument(place, memory) for place, memory in places))
    return primitive, stream, memories, arguments


def _description(shape: Sequence[int], strides: Sequence[int], name: str) -> ctypes.c_void_p:
    numbers = ctypes.c_int64 * len(shape)
    size = 2 if name == "bfloat16" else 4
    steps = numbers(*(stride // size for stride in strides))
    make = "dnnl_memory_desc_create_with_strides"
    return _new(make, len(shape), numbers(*shape), _TYPES[name], steps)


def _new(function: str, *arguments: Any) -> ctypes.c_void_p:
    made = ctypes.c_void_p()
    _call(function, ctypes.byref(made), *arguments)
    return made


def _call(function: str, *arguments: Any) -> None:
    library = _library()
    assert library is not None
    status = getattr(library, function)(*arguments)
    if status:
        raise RuntimeError(f"oneDNN: {function} returns status {status}")
