"""What a recorded step does more than it needs to, taken out before it is compiled."""

from typing import Any

import torch
from torch.fx import Graph, Node

from kerasllm.backend import torch_projected_losses, torch_table_gradients  # noqa: F401  (define the operators)
from kerasllm.backend.torch_built import pairs

_OURS = torch.ops.kerasllm
_ATEN = torch.ops.aten


def simplify(graph: Graph) -> None:
    """Changes the graph of a recorded step, of which every node knows its value's shape."""
    _leave_out_logits(graph)
    _add_rows_to_gradients(graph)
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
    is_converted = node.target is torch.ops.prims.convert_element_type.default
    if (is_scaled or is_converted) and pairs.exist_for(_value(first)):
        return first, second if is_scaled else None
    return node, None


def _value(node: Any) -> torch.Tensor:
    return node.meta["val"]
