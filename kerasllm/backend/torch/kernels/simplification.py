"""What a recorded step does more than it needs to, taken out before it is compiled."""

import operator
from typing import Any

import torch
from torch.fx import Graph, Node

from kerasllm.backend.torch.kernels.built import pairs

_OURS = torch.ops.kerasllm
_ATEN = torch.ops.aten
_CONVERT = torch.ops.prims.convert_element_type.default
_OTHER_SHAPES = (_ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default, _ATEN.alias.default)


def simplify(graph: Graph) -> None:
    """Changes the graph of a recorded step, of which every node knows its value's shape."""
    _leave_out_logits(graph)
    _add_rows_to_gradients(graph)
    _sum_rows_as_they_are_made(graph)
    graph.eliminate_dead_code()


def _leave_out_logits(graph: Graph) -> None:
    """Logits that were made for a cross-entropy alone which makes its own: see `torch_projected_losses`."""
    losses = [node for node in graph.nodes if node.target is _OURS.projected_losses.default]
    logits = [_without_aliases(node.args[4]) for node in losses]
    for node in losses:
        node.update_arg(4, None)
    graph.eliminate_dead_code()
    still_there = set(graph.nodes)
    for node, some in zip(losses, logits, strict=True):
        if node in still_there and some in still_there:
            node.update_arg(4, some)


def _without_aliases(node: Any) -> Any:
    """What it is another name of, which has other users than the name."""
    while node.target is _ATEN.alias.default:
        node = node.args[0]
    return node


def _add_rows_to_gradients(graph: Graph) -> None:
    """Rows of a table's gradient that are first summed, to be added to another gradient of the whole table."""
    for node in list(graph.nodes):
        if node.target is not _OURS.sum_of_rows.default or len(node.users) != 1:
            continue
        (total,) = node.users
        if total.target is not _ATEN.add.Tensor or total.kwargs or not pairs.exist_for(_value(total)):
            continue
        others = [some for some in total.args if isinstance(some, Node) and some is not node]
        if len(others) != 1 or _value(others[0]).shape != _value(total).shape:
            continue
        other, factor = _without_factor(others[0])
        with graph.inserting_before(total):
            added = graph.call_function(_OURS.with_rows_added.default, (other, *node.args[:2], factor))
        added.meta = dict(total.meta)
        total.replace_all_uses_with(added)
        pairs.of(_value(other).dtype).begin()


def _without_factor(node: Node) -> tuple[Any, Any]:
    """A gradient as `with_rows_added` takes it: before it was multiplied by a scalar, and before it became float32."""
    first, second = (*node.args, None, None)[:2]
    is_scaled = node.target is _ATEN.mul.Tensor and isinstance(second, Node) and _value(second).ndim == 0
    is_converted = node.target is _CONVERT
    if (is_scaled or is_converted) and pairs.exist_for(_value(first)):
        return first, second if is_scaled else None
    return node, None


def _sum_rows_as_they_are_made(graph: Graph) -> None:
    """A bias' gradient, of rows whose kernel has their sum already: see `torch_column_sums`.

    For one bias: two gradients are not to be the same memory, which clipping would then scale twice.
    """
    taken = set()
    for node in list(graph.nodes):
        if node.target is not _OURS.sum_over_rows.default:
            continue
        rows = _whole(node.args[0])
        if rows in taken or (sums := _sums_of(rows, graph)) is None:
            continue
        taken.add(rows)
        for user in list(node.users):
            if user.target is _CONVERT and _value(user).dtype == torch.float32:
                user.replace_all_uses_with(sums)
        if sums.meta["val"].dtype != _value(node).dtype:
            with graph.inserting_after(sums):
                sums = graph.call_function(_CONVERT, (sums, _value(node).dtype))
            sums.meta = dict(node.meta)
        node.replace_all_uses_with(sums)


def _whole(rows: Any) -> Any:
    """Of which they are another shape, with the same rows."""
    width = _value(rows).shape[-1]
    while rows.target in _OTHER_SHAPES and _value(rows.args[0]).shape[-1:] == (width,):
        rows = rows.args[0]
    return rows


def _sums_of(rows: Any, graph: Graph) -> Any:
    """Over the rows, in float32; None where they are not at hand."""
    if rows.target is not operator.getitem:
        return None
    made, place = rows.args
    with graph.inserting_after(made):
        if made.target in (_OURS.gelu_slopes.default, _OURS.attention_slopes.default) and place == 0:
            return _call(graph, operator.getitem, made, 1)
        has_dropout = made.target is _OURS.layer_norm_slopes.default and made.args[3] is not None
        if made.target is not _OURS.layer_norm_slopes.default or place != int(has_dropout):
            return None
        weights = _call(graph, operator.getitem, made, 2)
    with graph.inserting_after(weights):
        return _call(graph, _ATEN.select.int, weights, 0, 2)


def _call(graph: Graph, function: Any, *arguments: Any) -> Node:
    node = graph.call_function(function, arguments)
    node.meta["val"] = function(*(_value(some) if isinstance(some, Node) else some for some in arguments))
    return node


def _value(node: Any) -> torch.Tensor:
    return node.meta["val"]
