"""Writing of ONNX files, with the weights beside them where they are too large for one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kerasllm.errors import InputError
from kerasllm.export.onnx.graph import Graph

LARGEST = 2_000_000_000
"""The most bytes of weights in one file: protobuf ends at 2 GiB."""

_SMALL = 1024  # bytes of a weight that stays in the file, where shapes are known from it


def write_graph(graph: Graph, path: Path, largest: int = LARGEST) -> None:
    """Writes a graph with its weights, and checks the file.

    Args:
        graph: the graph.
        path: the file. Weights above `largest` are written to a file beside it, named like it with `_data` at its end.
        largest: the most bytes of weights in one file.

    Raises:
        InputError: the disk is full.
        OSError: the file cannot be written for any other reason.
    """
    model = graph.model_proto()
    is_large = sum(array.nbytes for array in graph.weights.values()) > largest
    if is_large:
        beside = path.with_name(f"{path.name}_data")
        with beside.open("wb") as file:
            for name, array in graph.weights.items():
                if array.nbytes < _SMALL:
                    model.graph.initializer.append(numpy_helper.from_array(array, name))
                    continue
                model.graph.initializer.append(_external(name, array, beside.name, file.tell()))
                file.write(array.data)
                file.write(b"\0" * (-file.tell() % 64))  # runtimes map aligned weights into memory
    else:
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in graph.weights.items()
        )
    path.write_bytes(model.SerializeToString())
    check_file(path, is_large)


def check_file(path: Path, is_large: bool = False) -> None:
    """Checks a file by ONNX's own rules, and the shapes in it.

    Raises:
        InputError: it breaks a rule.
    """
    try:
        onnx.checker.check_model(str(path), full_check=not is_large)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: is no valid ONNX: {first}") from error


def _external(name: str, array: np.ndarray, file: str, offset: int) -> onnx.TensorProto:
    """Returns a tensor whose values lie in another file."""
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": file, "offset": offset, "length": array.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
