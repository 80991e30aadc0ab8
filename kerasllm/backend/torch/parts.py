"""A recorded step cut into parts: those that are alike are compiled once, however many layers a model has.

Forward and backward pass are cut at the blocks of the model, an update at its layers.
"""

import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
    graph: GraphModule,
    cut: list[_Part],
    compile_one: Callable[[GraphModule, list[torch.Tensor]], Callable[..., Any]],
) -> Callable[..., list[Any]]:
    """Returns the recorded `graph` as a function of the same arguments.

    Args:
        graph: recorded with `make_fx`, of which every node knows its value's shape.
        cut: its parts, see `by_boundaries`, `by_layers` and `whole`.
        compile_one: makes a function that returns a list of a graph that does; also given are its inputs, tensors
            of the right shapes without values.
    """
    parts = [(part.kind(), part) for part in cut]
    made = dict(parts)  # by the last part of each kind; all will be the same function
    # Large ones first: what is still to be built once the last is written is then little.
    kinds = sorted(made, key=lambda kind: len(made[kind].nodes), reverse=True)
    threads = torch.get_num_threads()  # for which the code is made
    functions = {}
    for kind in kinds:
        key = kind, threads
        known = _functions.pop(key, None)
        if known is None:
            inputs = [_value(node) for node in made[kind].inputs]
            known = compile_one(made[kind].graph(), inputs)
        functions[kind] = _functions[key] = known  # behind the others, as the last one used
    while len(_functions) > _MOST_KEPT:
        del _functions[next(iter(_functions))]
    return _program(graph, [(functions[kind], part) for kind, part in parts])


_MOST_KEPT = 128
"""A model needs some ten parts for each shape of its batches."""

_functions: dict[tuple[str, int], Callable[..., Any]] = {}
"""The compiled parts that were used last in this process, by their kind; another model has many of the same."""


def whole(graph: GraphModule) -> list[_Part]:
    """Returns the recorded graph as one part."""
    return _parts({node: 0 for node in graph.graph.nodes if node.op == "call_function"})


def by_boundaries(graph: GraphModule) -> list[_Part]:
    """Returns the parts between the marks of `boundary`, which are taken out."""
    owner: dict[Node, int] = {}
    number = 0
    for node in list(graph.graph.nodes):
        if node.target is _boundary.default:
            number += 1
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.op == "call_function":
            owner[node] = owner[node.args[0]] if node.target is operator.getitem else number
    return _parts(owner)


def by_layers(graph: GraphModule, layers: Sequence[Hashable]) -> list[_Part]:
    """Returns the parts of an update: for each layer what concerns it alone, and what joins them, such as a norm.

    Tensors of no axes join layers: the norm is made of one for each weight, and its share in clipping is one. All other
    tensors belong to the layer of what they are made from. What a part needs of another is computed before; else each
    operator is as late as can be, so that little is kept. Variables change in the last parts.

    Args:
        graph: the recorded update.
        layers: what each argument of the graph belongs to.
    """
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    group = _groups(graph, layers)
    earliest: dict[Node, int] = {}
    for node in nodes:
        before = [(earliest[other], group[other]) for other in node.all_input_nodes if other in earliest]
        earliest[node] = max((stage + (place != group[node]) for stage, place in before), default=0)
    last = max(earliest.values(), default=0)
    stages: dict[Node, int] = {}
    for node in reversed(nodes):
        after = [(stages[user], group[user]) for user in node.users if user in stages]
        stages[node] = min((stage - (place != group[node]) for stage, place in after), default=last)
    # In the last stage what joins the layers comes last: it may change something that the others read.
    keys = {node: (stages[node], group[node] < 0, group[node]) for node in nodes}
    parts = _parts({node: keys[node] for node in sorted(nodes, key=keys.__getitem__)})
    return parts if _change_what_is_read_no_more(graph, parts) else whole(graph)


def _groups(graph: GraphModule, layers: Sequence[Hashable]) -> dict[Node, int]:
    """Returns a number for each node of what concerns one layer alone, and -1 for the others."""
    leader: dict[Node, Node] = {}
    first: dict[Hashable, Node] = {}

    def find(node: Node) -> Node:
        while leader[node] is not node:
            node = leader[node]
        return node

    for node in graph.graph.nodes:
        if node.op in ("placeholder", "call_function") and _has_axes(node):
            leader[node] = node
            for other in node.all_input_nodes:
                if other in leader:
                    leader[find(other)] = node
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, layer in zip(placeholders, layers, strict=True):
        if node in leader:
            leader[find(first.setdefault(layer, node))] = find(node)
    numbers: dict[Node, int] = {}
    for node in placeholders:
        if node in leader:
            numbers.setdefault(find(node), len(numbers))
    group: dict[Node, int] = {}
    for node in graph.graph.nodes:
        if node in leader:
            group[node] = numbers.get(find(node), -1)
        elif node.op == "call_function":
            above = {group[other] for other in node.all_input_nodes if other in leader}
            group[node] = above.pop() if len(above) == 1 else -1
    return group


def _has_axes(node: Node) -> bool:
    value: Any = node.meta["val"]
    return any(tensor.dim() for tensor in (value if isinstance(value, list | tuple) else [value]))


def _change_what_is_read_no_more(graph: GraphModule, parts: Sequence[_Part]) -> bool:
    """Returns whether no part reads an argument that a part before it has changed."""
    place = {node: number for number, part in enumerate(parts) for node in part.nodes}
    changes = [node for node in place if node.target is torch.ops.aten.copy_.default]
    changed = {node.all_input_nodes[0]: place[node] for node in changes}
    return all(place.get(user, 0) <= last for node, last in changed.items() for user in node.users)


def _parts(owner: Mapping[Node, Any]) -> list[_Part]:
    """Returns the parts of the nodes of each owner, in the order in which the owners come."""
    members: dict[Any, list[Node]] = {}
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
    unseen = [_value(node) for _, part in steps for node in part.inputs]

    def run(*arguments):
        values = [*arguments, *fixed, *[None] * (count - len(arguments) - len(fixed))]
        recorded = iter(unseen)
        for function, inputs, first, done in plan:
            if unseen:  # the code looks at no shapes, and they are the same in each step
                _check([values[number] for number in inputs], recorded)
            found = function(*[values[number] for number in inputs])
            values[first : first + len(found)] = found
            for number in done:
                values[number] = None
        unseen.clear()
        return [values[number] for number in results]

    return run


def _check(values: Sequence[torch.Tensor], recorded: Iterator[torch.Tensor]) -> None:
    """Raises `ValueError` unless the values lie in memory as the next recorded ones do."""
    for value, expected in zip(values, recorded, strict=False):
        if (value.shape, value.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"a tensor of shape {tuple(value.shape)} was {tuple(expected.shape)}")
        lengths = zip(value.shape, value.stride(), expected.stride(), strict=True)
        if any(length > 1 and own != other for length, own, other in lengths):
            raise ValueError(f"a tensor has strides {value.stride()}, which were {expected.stride()}")
