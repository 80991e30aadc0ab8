"""Recurrent models as ONNX graphs, by ONNX's own LSTM, GRU and RNN.

A language model takes the state as `past_state.{layer}.hidden` and, for an LSTM, `past_state.{layer}.cell`, each
(batch, hidden_dim) and zero at first, and returns it as `present_state.…`. Padding may only follow a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from kerasllm.errors import InputError
from kerasllm.export.onnx.graph import Graph
from kerasllm.export.onnx.layers import dense, real_tokens, scores
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.models import RecurrentBackbone, RecurrentClassifier, RecurrentConfig, RecurrentLM

ROWS, LENGTH = "batch_size", "sequence_length"
_OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
"""For each of ONNX's gates the number of PyTorch's, in whose order our weights are."""


def graphs(model: Any) -> dict[str, Graph]:
    """Returns the graph of a recurrent model, by the name of its file.

    Raises:
        InputError: a classifier pools what cannot be taken from ONNX's states.
    """
    config: RecurrentConfig = model.config
    graph = Graph(model, "recurrent")
    ids, given = (graph.input(name, np.int64, (ROWS, LENGTH)) for name in ("input_ids", "attention_mask"))
    lengths = lengths_of(graph, given)
    hidden = graph.add("Gather", graph.weight("embeddings/token"), ids)
    hidden = graph.add("Transpose", hidden, perm=[1, 0, 2])  # (length, batch, width)
    presents: dict[str, str] = {}
    last = ""
    for index in range(config.num_layers):
        names = state_names(config.cell, index) if isinstance(model, RecurrentLM) else []
        states = [graph.input(f"past_state.{name}", np.float32, (ROWS, config.hidden_dim)) for name in names]
        shape: dict[str, Any] = {
            "kind": config.kind,
            "hidden_dim": config.hidden_dim,
            "bidirectional": config.bidirectional,
        }
        hidden, *after = layer(graph, hidden, f"recurrent_{index}/", **shape, lengths=lengths, states=states)
        last = after[0]
        presents |= {
            name: graph.add("Squeeze", each, graph.constant([0]))
            for name, each in zip(names, after, strict=False)
        }
    hidden = graph.add("Transpose", hidden, perm=[1, 0, 2])
    if config.use_projection:
        hidden = dense(graph, hidden, "projection/")
    if isinstance(model, RecurrentClassifier):
        pooled = _pooled(graph, model, hidden, last, given)
        graph.output("logits", dense(graph, pooled, "classifier/"), (ROWS, model.num_classes))
    elif isinstance(model, RecurrentLM):
        size = config.vocabulary_size
        table = graph.weight("embeddings/token" if model.head is None else "head/kernel")
        bias = graph.weight("head/bias") if graph.has("head/bias") else ""
        logits = scores(graph, hidden, table, bias, config.output_dim, size)
        graph.output("logits", logits, (ROWS, LENGTH, size))
    else:
        graph.output("last_hidden_state", hidden, (ROWS, LENGTH, config.output_dim))
    for name, value in presents.items():
        graph.output(f"present_state.{name}", value, (ROWS, config.hidden_dim))
    return {"model": graph}


def lengths_of(graph: Graph, attention_mask: str) -> str:
    """Returns the number of tokens of each row, int32 (batch,)."""
    counts = graph.add("ReduceSum", attention_mask, graph.constant([1]), keepdims=0)
    return graph.add("Cast", counts, to=TensorProto.INT32)


def state_names(cell: str, index: int) -> list[str]:
    """Returns the names of the parts of a layer's state, without `past_state.` and `present_state.`."""
    return [f"{index}.{part}" for part in (("hidden", "cell") if cell == "lstm" else ("hidden",))]


def layer(
    graph: Graph,
    steps: str,
    name: str,
    *,
    kind: str,
    hidden_dim: int,
    bidirectional: bool = False,
    lengths: str = "",
    states: Sequence[str] = (),
) -> list[str]:
    """Returns the outputs (length, batch, directions * hidden_dim) and last states (directions, batch, hidden_dim).

    Args:
        graph: the graph.
        steps: (length, batch, width).
        name: what the names of the layer's weights begin with.
        kind: the cell, as `RecurrentLayer` names it.
        hidden_dim: units of a direction.
        bidirectional: whether there are two.
        lengths: int32 (batch,), the number of tokens of each row; an empty text if there is no padding.
        states: the states that the layer begins with, (batch, hidden_dim); none for zeros.
    """
    prefixes = ("", "backward_") if bidirectional else ("",)
    cell, _, activation = kind.partition("_")

    def stacked(*parts: str) -> str:
        """Returns the weights of all directions, with the gates in ONNX's order."""
        found = []
        for prefix in prefixes:
            values = [np.asarray(graph.model.merged(f"{name}{prefix}{part}"), np.float32) for part in parts]
            gates = [value.reshape(-1, hidden_dim, *value.shape[1:])[list(_GATES[cell])] for value in values]
            found.append(
                np.concatenate([gate.reshape(value.shape) for gate, value in zip(gates, values, strict=True)])
            )
        return graph.table(f"{name}{parts[0]}", np.stack(found))

    kernels = [stacked("input_kernel"), stacked("recurrent_kernel"), stacked("input_bias", "recurrent_bias")]
    settings: dict[str, Any] = {
        "hidden_size": hidden_dim,
        "direction": "bidirectional" if bidirectional else "forward",
    }
    if cell == "gru":
        settings["linear_before_reset"] = 1
    if cell == "rnn":
        settings["activations"] = [activation.capitalize()] * len(prefixes)
    begin = [graph.axes(state, 0) for state in states]
    count = 3 if cell == "lstm" else 2
    outputs, *after = graph.add_several(
        _OPERATORS[cell], steps, *kernels, lengths, *begin, outputs=count, **settings
    )
    turned = graph.add("Transpose", outputs, perm=[0, 2, 1, 3])  # (length, batch, directions, hidden_dim)
    return [graph.reshape(turned, 0, 0, len(prefixes) * hidden_dim), *after]


def _pooled(graph: Graph, model: RecurrentClassifier, hidden: str, last: str, given: str) -> str:
    """Returns the vectors of texts, (batch, output_dim)."""
    config = model.config
    if model.pooling == "last":
        if config.use_projection and config.bidirectional:
            raise InputError(
                "a bidirectional classifier with use_projection and the pooling 'last' cannot be written to ONNX"
            )
        states = graph.reshape(graph.add("Transpose", last, perm=[1, 0, 2]), 0, -1)
        return dense(graph, states, "projection/") if config.use_projection else states
    real = graph.add("Squeeze", real_tokens(graph, given), graph.constant([1, 2]))
    kept = graph.add("Where", graph.axes(real, 2), hidden, graph.number(0))
    total = graph.add("ReduceSum", kept, graph.constant([1]), keepdims=0)
    count = graph.add(
        "Cast", graph.add("ReduceSum", given, graph.constant([1]), keepdims=1), to=TensorProto.FLOAT
    )
    return graph.add("Div", total, graph.add("Max", count, graph.number(1)))


def run(sessions: Sessions, model: Any, inputs: Mapping[str, np.ndarray]) -> Any:
    """Returns what the model returns for padded batches, computed by the exported file from a state of zeros.

    Args:
        sessions: the exported file.
        model: the model, whose class tells the form of the result.
        inputs: `token_ids`, and optionally `padding_mask`, each int (batch, length).
    """
    config, token_ids = model.config, inputs["token_ids"]
    zeros = np.zeros((len(token_ids), config.hidden_dim), np.float32)
    names = [name for index in range(config.num_layers) for name in state_names(config.cell, index)]
    found = sessions.run(
        "model",
        {
            "input_ids": token_ids,
            "attention_mask": inputs.get("padding_mask", np.ones_like(token_ids)),
            **{f"past_state.{name}": zeros for name in names},
        },
    )
    if isinstance(model, RecurrentBackbone):
        return {"sequence_output": found["last_hidden_state"]}
    return found["logits"]
