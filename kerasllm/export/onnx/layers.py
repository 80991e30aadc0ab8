"""The layers of the models as parts of ONNX graphs; each function adds what a layer computes and returns its result.

Shapes are those of `kerasllm.layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from kerasllm.errors import InputError
from kerasllm.export.onnx.graph import Graph

LOWEST = float(np.finfo(np.float32).min)

_ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "gelu": lambda graph, value: graph.add("Gelu", value, approximate="none"),
    "gelu_tanh": lambda graph, value: graph.add("Gelu", value, approximate="tanh"),
    "relu": lambda graph, value: graph.add("Relu", value),
    "silu": lambda graph, value: graph.add("Mul", value, graph.add("Sigmoid", value)),
    "tanh": lambda graph, value: graph.add("Tanh", value),
    "sigmoid": lambda graph, value: graph.add("Sigmoid", value),
    "linear": lambda graph, value: value,
}


@dataclass(frozen=True)
class BlockShape:
    """The settings of a Transformer's blocks.

    Args:
        num_heads: heads of queries.
        num_key_value_heads: heads of keys and values.
        head_dim: width of a head.
        activation: name of the activation in the feed-forward network.
        is_gated: whether the feed-forward network is gated.
        normalization: "layer_norm" or "rms_norm".
        epsilon: number added to every variance, or mean square.
        normalize_first: whether norms stand before the branches, and not after the sums.
    """

    num_heads: int
    num_key_value_heads: int
    head_dim: int
    activation: str
    is_gated: bool = False
    normalization: str = "layer_norm"
    epsilon: float = 1e-12
    normalize_first: bool = False

    @property
    def widths(self) -> tuple[int, int, int]:
        """The widths of queries, keys and values."""
        shared = self.num_key_value_heads * self.head_dim
        return self.num_heads * self.head_dim, shared, shared


@dataclass(frozen=True)
class KeysAndValues:
    """Names of keys and values, each (batch, key_value_heads, length, head_dim)."""

    key: str
    value: str


def activation(graph: Graph, value: str, name: str) -> str:
    """Returns the activation of a value.

    Raises:
        InputError: ONNX has no such activation here.
    """
    if name not in _ACTIVATIONS:
        raise InputError(
            f"activation {name!r} cannot be written to ONNX; these can: {', '.join(sorted(_ACTIVATIONS))}"
        )
    return _ACTIVATIONS[name](graph, value)


def dense(graph: Graph, value: str, name: str) -> str:
    """Returns a projection of (..., inputs) to (..., outputs), by the variables `NAMEkernel` and `NAMEbias`."""
    product = graph.add("MatMul", value, graph.weight(f"{name}kernel"))
    return graph.add("Add", product, graph.weight(f"{name}bias")) if graph.has(f"{name}bias") else product


def scores(graph: Graph, value: str, table: str, bias: str, width: int, vocabulary_size: int) -> str:
    """Returns the scores of all tokens, (batch, length, vocabulary_size), of hidden states (batch, length, width).

    The table is not stored again for its transpose.

    Args:
        graph: the graph.
        value: the hidden states.
        table: (vocabulary_size, width).
        bias: (vocabulary_size,); an empty text for none.
        width: of the hidden states.
        vocabulary_size: number of tokens.
    """
    flat = graph.reshape(value, -1, width)
    product = graph.add("Gemm", flat, table, *([bias] if bias else []), transB=1)
    sizes = graph.add("Shape", value, start=0, end=2)
    shape = graph.add("Concat", sizes, graph.constant([vocabulary_size]), axis=0)
    return graph.add("Reshape", product, shape)


def norm(graph: Graph, value: str, name: str, kind: str, epsilon: float) -> str:
    """Returns a normalized value, by the variables `NAMEscale` and `NAMEbias`."""
    scale = graph.weight(f"{name}scale")
    if kind == "rms_norm":
        squares = graph.add("Mul", value, value)
        mean = graph.add("ReduceMean", squares, graph.constant([-1]), keepdims=1)
        root = graph.add("Sqrt", graph.add("Add", mean, graph.number(epsilon)))
        return graph.add("Mul", graph.add("Div", value, root), scale)
    bias = [graph.weight(f"{name}bias")] if graph.has(f"{name}bias") else []
    return graph.add("LayerNormalization", value, scale, *bias, axis=-1, epsilon=epsilon)


def split_heads(graph: Graph, value: str, num_heads: int, head_dim: int) -> str:
    """Returns (batch, num_heads, length, head_dim), of (batch, length, num_heads * head_dim)."""
    return graph.add("Transpose", graph.reshape(value, 0, 0, num_heads, head_dim), perm=[0, 2, 1, 3])


def project_heads(graph: Graph, value: str, name: str, shape: BlockShape) -> tuple[str, str, str]:
    """Returns the heads of queries, keys and values, by the variables `NAMEkernel` and `NAMEbias`."""
    widths = graph.constant(shape.widths)
    parts = graph.add_several("Split", dense(graph, value, name), widths, outputs=3, axis=-1)
    counts = (shape.num_heads, shape.num_key_value_heads, shape.num_key_value_heads)
    query, key, values = (
        split_heads(graph, part, count, shape.head_dim) for part, count in zip(parts, counts, strict=True)
    )
    return query, key, values


def attend(graph: Graph, query: str, key: str, value: str, mask: str, shape: BlockShape) -> str:
    """Returns the attention of heads of queries to keys and values, (batch, queries, num_heads * head_dim).

    Args:
        graph: the graph.
        query: (batch, num_heads, queries, head_dim).
        key: (batch, num_key_value_heads, keys, head_dim).
        value: as `key`.
        mask: boolean, broadcastable to (batch, num_heads, queries, keys).
        shape: the settings of the block.
    """
    if shape.num_key_value_heads != shape.num_heads:
        key, value = (_repeat_heads(graph, each, shape) for each in (key, value))
    scaled = graph.add("Mul", query, graph.number(shape.head_dim**-0.5))
    products = graph.add("MatMul", scaled, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    allowed = graph.add("Where", mask, products, graph.number(LOWEST))
    attended = graph.add("MatMul", graph.add("Softmax", allowed, axis=-1), value)
    merged = graph.add("Transpose", attended, perm=[0, 2, 1, 3])
    return graph.reshape(merged, 0, 0, shape.num_heads * shape.head_dim)


def _repeat_heads(graph: Graph, heads: str, shape: BlockShape) -> str:
    shared = shape.num_heads // shape.num_key_value_heads
    several = graph.add("Expand", graph.axes(heads, 2), graph.constant([1, 1, shared, 1, 1]))
    return graph.reshape(several, 0, shape.num_heads, -1, shape.head_dim)


def rotate(graph: Graph, heads: str, tables: tuple[str, str]) -> str:
    """Returns heads (batch, heads, length, head_dim) turned by cosines and sines (batch, 1, length, head_dim / 2)."""
    cosine, sine = tables
    first, second = graph.add_several("Split", heads, outputs=2, axis=-1, num_outputs=2)

    def product(left: str, right: str) -> str:
        return graph.add("Mul", left, right)

    turned = (
        graph.add("Sub", product(first, cosine), product(second, sine)),
        graph.add("Add", product(second, cosine), product(first, sine)),
    )
    return graph.add("Concat", *turned, axis=-1)


def feed_forward(graph: Graph, value: str, name: str, shape: BlockShape) -> str:
    """Returns the feed-forward network of a block."""
    wide = dense(graph, value, f"{name}intermediate_")
    if shape.is_gated:
        gate, up = graph.add_several("Split", wide, outputs=2, axis=-1, num_outputs=2)
        wide = graph.add("Mul", activation(graph, gate, shape.activation), up)
    else:
        wide = activation(graph, wide, shape.activation)
    return dense(graph, wide, f"{name}output_")


def add_branch(
    graph: Graph, hidden: str, branch: Callable[[str], str], norm_name: str, shape: BlockShape
) -> str:
    """Returns `x + branch(norm(x))`, or `norm(x + branch(x))` where norms stand after the sums."""

    def normal(value: str) -> str:
        return norm(graph, value, norm_name, shape.normalization, shape.epsilon)

    if shape.normalize_first:
        return graph.add("Add", hidden, branch(normal(hidden)))
    return normal(graph.add("Add", hidden, branch(hidden)))


def encoder_block(graph: Graph, hidden: str, name: str, mask: str, shape: BlockShape) -> str:
    """Returns what a `TransformerEncoderBlock` does."""

    def attention(value: str) -> str:
        heads = project_heads(graph, value, f"{name}query_key_value_", shape)
        return dense(graph, attend(graph, *heads, mask, shape), f"{name}attention_output_")

    hidden = add_branch(graph, hidden, attention, f"{name}attention_norm_", shape)
    return add_branch(
        graph, hidden, lambda value: feed_forward(graph, value, name, shape), f"{name}output_norm_", shape
    )


def decoder_block(
    graph: Graph,
    hidden: str,
    name: str,
    mask: str,
    shape: BlockShape,
    past: KeysAndValues,
    *,
    rotary: tuple[str, str] | None = None,
    cross: KeysAndValues | None = None,
    cross_mask: str = "",
) -> tuple[str, KeysAndValues]:
    """Returns what a `TransformerDecoderBlock` does, and the keys and values of past and new tokens.

    Args:
        graph: the graph.
        hidden: (batch, new, hidden_dim).
        name: the block's name with a slash.
        mask: boolean, broadcastable to (batch, heads, new, past + new).
        shape: the settings of the block.
        past: the keys and values of earlier tokens.
        rotary: cosines and sines, see `rotate`.
        cross: the keys and values of an encoder's output.
        cross_mask: boolean, broadcastable to (batch, heads, new, encoder_length).
    """
    present: list[KeysAndValues] = []

    def attention(value: str) -> str:
        query, key, new = project_heads(graph, value, f"{name}query_key_value_", shape)
        if rotary is not None:
            query, key = rotate(graph, query, rotary), rotate(graph, key, rotary)
        key, new = (graph.add("Concat", *pair, axis=2) for pair in ((past.key, key), (past.value, new)))
        present.append(KeysAndValues(key, new))
        return dense(graph, attend(graph, query, key, new, mask, shape), f"{name}attention_output_")

    def attention_to_encoder(value: str) -> str:
        assert cross is not None
        projected = dense(graph, value, f"{name}cross_attention_query_")
        query = split_heads(graph, projected, shape.num_heads, shape.head_dim)
        attended = attend(graph, query, cross.key, cross.value, cross_mask, shape)
        return dense(graph, attended, f"{name}cross_attention_output_")

    hidden = add_branch(graph, hidden, attention, f"{name}attention_norm_", shape)
    if cross is not None:
        hidden = add_branch(graph, hidden, attention_to_encoder, f"{name}cross_attention_norm_", shape)
    hidden = add_branch(
        graph,
        hidden,
        lambda value: feed_forward(graph, value, name, shape),
        f"{name}feed_forward_norm_",
        shape,
    )
    return hidden, present[0]


def causal_mask(graph: Graph, past_length: str, new_tokens: str) -> str:
    """Returns who may see whom, boolean (1, 1, new, past + new).

    Args:
        graph: the graph.
        past_length: int64 (1,), the number of earlier tokens.
        new_tokens: (batch, new).
    """
    total = graph.add("Add", past_length, graph.size(new_tokens, 1))
    queries = graph.axes(graph.count(past_length, total), 0, 1, 3)
    keys = graph.axes(graph.count(graph.constant([0]), total), 0, 1, 2)
    return graph.add("GreaterOrEqual", queries, keys)


def real_tokens(graph: Graph, attention_mask: str) -> str:
    """Returns an int64 mask (batch, length) as boolean (batch, 1, 1, length)."""
    return graph.axes(graph.add("Cast", attention_mask, to=TensorProto.BOOL), 1, 2)
