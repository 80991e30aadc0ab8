"""A builder of ONNX graphs, which takes the weights of a model by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = 20
"""The version of ONNX's operators: the first with Gelu, which all current runtimes have."""

_IR_VERSION = 10  # the newest that runtimes of the opset's time read

Dimension = int | str


class Graph:
    """A graph under construction. Values are referred to by their names, which are texts.

    Args:
        model: the model, which has `named_variables` and `merged`.
        name: the name of the graph.

    Attributes:
        weights: the values of the initializers by name.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self.weights: dict[str, np.ndarray] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._variables = model.named_variables()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._numbers: Iterator[int] = itertools.count()

    def input(self, name: str, dtype: type, shape: Sequence[Dimension]) -> str:
        """Adds an input, and returns its name.

        Args:
            name: the name.
            dtype: NumPy's type.
            shape: sizes, and names of sizes that are not known.
        """
        self.inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, shape: Sequence[Dimension]) -> None:
        """Adds an output of float32 numbers, of a value that the graph computes."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))
        self.outputs.append(_value_info(name, np.float32, shape))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator with one output, and returns the output's name."""
        return self.add_several(operator, *inputs, outputs=1, **attributes)[0]

    def add_several(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Adds an operator with several outputs, and returns their names."""
        number = next(self._numbers)
        names = [f"{operator}_{number}" + (f"_{index}" if outputs > 1 else "") for index in range(outputs)]
        node = helper.make_node(operator, inputs, names, name=f"{operator}_{number}", **attributes)
        self.nodes.append(node)
        return names

    def has(self, name: str) -> bool:
        """Returns whether the model has a variable of this name."""
        return name in self._variables

    def weight(self, name: str) -> str:
        """Returns the name of an initializer that holds a variable of the model, with its adapter added."""
        if name not in self.weights:
            self.table(name, self.model.merged(name))
        return name

    def table(self, name: str, values: np.ndarray) -> str:
        """Returns the name of a new initializer with these values, as float32."""
        self.weights[name] = np.ascontiguousarray(values, np.float32)
        return name

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """Returns the name of an initializer with a small constant value, which is kept once."""
        array: np.ndarray = np.asarray(value, dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = f"constant_{len(self._constants)}"
            self.weights[name] = array
        return self._constants[key]

    def number(self, value: float) -> str:
        """Returns the name of a float32 constant."""
        return self.constant(value, np.float32)

    def reshape(self, value: str, *shape: int) -> str:
        """Returns a value in another shape, where 0 keeps the size of an axis and -1 is what remains."""
        return self.add("Reshape", value, self.constant(shape))

    def axes(self, value: str, *axes: int) -> str:
        """Returns a value with new axes of size 1."""
        return self.add("Unsqueeze", value, self.constant(axes))

    def size(self, value: str, axis: int) -> str:
        """Returns the size of an axis, int64 (1,)."""
        return self.add("Shape", value, start=axis, end=axis + 1)

    def rows(self, table: str, start: str, end: str) -> str:
        """Returns the rows of a table from `start` to `end`, each int64 (1,)."""
        return self.add("Slice", table, start, end, self.constant([0]))

    def count(self, start: str, end: str) -> str:
        """Returns the whole numbers from `start` to `end`, each int64 (1,)."""
        edges = (self.add("Squeeze", edge) for edge in (start, end))
        return self.add("Range", *edges, self.constant(1))

    def branch(self, name: str) -> Graph:
        """Returns a graph for a branch of an `If`; it may use all values of this one, and shares the initializers."""
        branch = Graph(self.model, name)
        branch.weights, branch._constants, branch._numbers = self.weights, self._constants, self._numbers
        return branch

    def proto(self) -> onnx.GraphProto:
        """Returns the graph without its initializers."""
        return helper.make_graph(self.nodes, self.name, self.inputs, self.outputs)

    def model_proto(self) -> onnx.ModelProto:
        """Returns the model without its initializers, whose values may be written beside it."""
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            self.proto(), opset_imports=opset, ir_version=_IR_VERSION, producer_name="kerasllm"
        )


def _value_info(name: str, dtype: type, shape: Sequence[Dimension]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert kind != TensorProto.UNDEFINED
    return helper.make_tensor_value_info(name, kind, list(shape))
