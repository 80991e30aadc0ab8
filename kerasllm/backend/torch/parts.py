"""A recorded step cut at its blocks: parts that are alike are compiled once, however many layers a model has."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from kerasllm.backend.torch.products import is_recording

_library = torch.library.Library("kerasllm_parts", "DEF")
_library.define("boundary(Tensor hidden) -> Tensor")
_library.impl("boundary", torch.clone, "CompositeExplicitAutograd")
_boundary = torch.ops.kerasllm_parts.boundary


@torch.library.register_fake("kerasllm_parts::boundary")
def _same(hidden):
    return torch.empty_like(hidden)


class _Boundary(torch.autograd.Function):
    """A mark in the recorded step, on the way there and on the way back; it is taken out before it would run."""

    @staticmethod
    def forward(ctx, hidden):
        return _boundary(hidden)

    @staticmethod
    def backward(ctx, upstream):
        return _boundary(upstream)


def boundary(hidden):
    """Returns `hidden`; in a recorded step, one part ends with it and the next begins."""
    return _Boundary.apply(hidden) if is_recording() else hidden


@dataclass(eq=False)
class _Part:
    nodes: list[Node]
    inputs: list[Node]
    outputs: list[Node]

    def graph(self) -> GraphModule:
        """Returns the part by itself, a function of its inputs that returns a list."""
        graph = Graph()
        known: dict[Node, Node] = {}
        for node in self.inputs:
            known[node] = graph.placeholder(f"input_{len(known)}")
            known[node].meta = dict(node.meta)
        for node in self.nodes:
            known[node] = graph.node_copy(node, lambda other: known[other])
        graph.output([known[node] for node in self.outputs])
        return GraphModule(torch.nn.Module(), graph)

    def kind(self) -> str:
        """Returns a text that is the same for two parts if one can take the other's place, and only then."""
        number = {node: place for place, node in enumerate((*self.inputs, *self.nodes))}
        inputs = [
            (str(value.dtype), tuple(value.shape), value.stride(), str(value.device))
            for value in map(_value, self.inputs)
        ]
        nodes = [
            (
                str(node.target),
                *(
                    torch.fx.node.map_arg(some, lambda other: f"%{number[other]}")
                    for some in (node.args, node.kwargs)
                ),
            )
            for node in self.nodes
        ]
        return repr((inputs, nodes, [number[node] for node in self.outputs]))


def _value(node: Node) -> torch.Tensor:
    return node.meta["val"]


def compiled_in_parts(
    graph: GraphModule, compile_one: Callable[[GraphModule, list[torch.Tensor]], Callable[..., Any]]
) -> Callable[..., list[Any]]:
    """Returns the recorded `graph` as a function of the same arguments.

    Args:
        graph: recorded with `make_fx`, of which every node knows its value's shape.
        compile_one: makes a function that returns a list of a graph that does; also given are its inputs, tensors
            of the right shapes without values.
    """
    parts = [(part.kind(), part) for part in _parts(graph)]
    made = dict(parts)  # by the last part of each kind; all will be the same function
    # Large ones first: what is still to be built once the last is written is then little.
    kinds = sorted(made, key=lambda kind: len(made[kind].nodes), reverse=True)
    functions = {
        kind: compile_one(made[kind].graph(), [_value(node) for node in made[kind].inputs]) for kind in kinds
    }
    return _program(graph, [(functions[kind], part) for kind, part in parts])


def _parts(graph: GraphModule) -> list[_Part]:
    owner: dict[Node, int] = {}
    number = 0
    for node in list(graph.graph.nodes):
        if node.target is _boundary.default:
            number += 1
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.op == "call_function":
            owner[node] = owner[node.args[0]] if node.target is operator.getitem else number
    members: dict[int, list[Node]] = {}
    for node, place in owner.items():
        members.setdefault(place, []).append(node)
    parts = []
    for place, nodes in members.items():
        inputs = dict.fromkeys(
            given for node in nodes for given in node.all_input_nodes if owner.get(given) != place
        )
        outputs = [node for node in nodes if any(owner.get(user) != place for user in node.users)]
        parts.append(_Part(nodes, list(inputs), outputs))
    return parts


def _program(
    graph: GraphModule, steps: Sequence[tuple[Callable[..., Any], _Part]]
) -> Callable[..., list[Any]]:
    """Returns what runs the parts one after another and lets a value go where none that follows needs it."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    constants = {node: getattr(graph, node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    place = {node: number for number, node in enumerate((*placeholders, *constants))}
    for _, part in steps:
        for node in part.outputs:
            place[node] = len(place)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    results = [place[node] if isinstance(node, Node) else node for node in output.args[0]]
    last_use = {}
    for number, (_, part) in enumerate(steps):
        for node in (*part.inputs, *part.outputs):
            last_use[place[node]] = number
    plan = [
        (
            function,
            [place[node] for node in part.inputs],
            place[part.outputs[0]] if part.outputs else 0,
            [
                some
                for some, last in last_use.items()
                if last == number and some >= len(placeholders) + len(constants) and some not in results
            ],
        )
        for number, (function, part) in enumerate(steps)
    ]
    fixed, count = list(constants.values()), len(place)

    def run(*arguments):
        values = [*arguments, *fixed, *[None] * (count - len(arguments) - len(fixed))]
        for function, inputs, first, done in plan:
            found = function(*[values[number] for number in inputs])
            values[first : first + len(found)] = found
            for number in done:
                values[number] = None
        return [values[number] for number in results]

    return run
