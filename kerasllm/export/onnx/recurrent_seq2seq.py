"""The recurrent encoder-decoder as two ONNX graphs, in the form of the Transformer's: an encoder, and a merged decoder.

The encoder returns the decoder's first state as `present_state.{layer}.hidden` and, for an LSTM,
`present_state.{layer}.cell`, each (batch, hidden_dim). The decoder takes a state as `past_state.…` and returns the next
one, so that one file serves for the first token and for all later ones. Padding may only follow a source.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from kerasllm.export.onnx.graph import Graph
from kerasllm.export.onnx.layers import dense, scores
from kerasllm.export.onnx.recurrent import layer, lengths_of, state_names
from kerasllm.export.onnx.seq2seq import DECODER, ENCODER, ROWS, SOURCE, TARGET
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.models import RecurrentSeq2SeqConfig

_NEVER = -1e30  # the score of a place that is not attended to, as in the model


def graphs(model: Any) -> dict[str, Graph]:
    """Returns the graphs of a `RecurrentSeq2SeqLM`'s encoder and decoder, by the names of their files."""
    return {ENCODER: _encoder(model), DECODER: _decoder(model)}


def _encoder(model: Any) -> Graph:
    config = model.config
    graph = Graph(model, "encoder")
    ids = graph.input("input_ids", np.int64, (ROWS, SOURCE))
    lengths = lengths_of(graph, graph.input("attention_mask", np.int64, (ROWS, SOURCE)))
    shape: dict[str, Any] = {"kind": config.kind, "hidden_dim": config.hidden_dim, "bidirectional": True}
    steps = _embed(graph, ids)
    presents = {}
    for index in range(config.num_layers):
        steps, *after = layer(graph, steps, f"encoder_{index}/", **shape, lengths=lengths)
        for part, (name, state) in enumerate(zip(state_names(config.cell, index), after, strict=True)):
            both = graph.reshape(graph.add("Transpose", state, perm=[1, 0, 2]), 0, -1)
            presents[name] = graph.add("Tanh", dense(graph, both, f"bridge_{index}_{part}/"))
    hidden = graph.add("Transpose", steps, perm=[1, 0, 2])
    graph.output("last_hidden_state", hidden, (ROWS, SOURCE, 2 * config.hidden_dim))
    for name, value in presents.items():
        graph.output(f"present_state.{name}", value, (ROWS, config.hidden_dim))
    return graph


def _decoder(model: Any) -> Graph:
    config = model.config
    width, size = config.hidden_dim, config.vocabulary_size
    graph = Graph(model, "decoder")
    source_mask = graph.input("encoder_attention_mask", np.int64, (ROWS, SOURCE))
    ids = graph.input("input_ids", np.int64, (ROWS, TARGET))
    encoded = graph.input("encoder_hidden_states", np.float32, (ROWS, SOURCE, 2 * width))
    steps = _embed(graph, ids)
    presents = {}
    for index in range(config.num_layers):
        names = state_names(config.cell, index)
        states = [graph.input(f"past_state.{name}", np.float32, (ROWS, width)) for name in names]
        steps, *after = layer(
            graph, steps, f"decoder_{index}/", kind=config.kind, hidden_dim=width, states=states
        )
        for name, state in zip(names, after, strict=True):
            presents[name] = graph.add("Squeeze", state, graph.constant([0]))
    hidden = graph.add("Transpose", steps, perm=[1, 0, 2])
    context = _attended(graph, hidden, encoded, source_mask)
    joined = graph.add("Concat", context, hidden, axis=-1)
    hidden = graph.add("Tanh", dense(graph, joined, "attention_output/"))
    logits = scores(graph, hidden, graph.weight("embeddings/token"), "", width, size)
    graph.output("logits", logits, (ROWS, TARGET, size))
    for name, value in presents.items():
        graph.output(f"present_state.{name}", value, (ROWS, width))
    return graph


def _embed(graph: Graph, ids: str) -> str:
    """Returns the embeddings of tokens, (length, batch, hidden_dim)."""
    return graph.add("Transpose", graph.add("Gather", graph.weight("embeddings/token"), ids), perm=[1, 0, 2])


def _attended(graph: Graph, hidden: str, encoded: str, source_mask: str) -> str:
    """Returns what each target position attends to, (batch, target_length, 2 * hidden_dim)."""
    keys = graph.add("Transpose", encoded, perm=[0, 2, 1])
    found = graph.add("MatMul", dense(graph, hidden, "attention_query/"), keys)
    real = graph.axes(graph.add("Cast", source_mask, to=TensorProto.BOOL), 1)
    weights = graph.add("Softmax", graph.add("Where", real, found, graph.number(_NEVER)), axis=-1)
    return graph.add("MatMul", weights, encoded)


def run(sessions: Sessions, model: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the logits (batch, target_length, vocabulary_size), computed by the exported files.

    All but the last two target tokens are computed at once, and these one by one.

    Args:
        sessions: the exported files.
        model: the model.
        inputs: `encoder_token_ids` and `decoder_token_ids`, and optionally `encoder_padding_mask`.
    """
    config: RecurrentSeq2SeqConfig = model.config
    source, target = inputs["encoder_token_ids"], inputs["decoder_token_ids"]
    mask = inputs.get("encoder_padding_mask", np.ones_like(source))
    encoded = sessions.run(ENCODER, {"input_ids": source, "attention_mask": mask})
    given = {"encoder_attention_mask": mask, "encoder_hidden_states": encoded["last_hidden_state"]}
    names = [name for index in range(config.num_layers) for name in state_names(config.cell, index)]
    length = target.shape[1]
    found, parts = encoded, []
    for start, end in itertools.pairwise(sorted({0, *range(max(length - 2, 1), length + 1)})):
        state = {f"past_state.{name}": found[f"present_state.{name}"] for name in names}
        found = sessions.run(DECODER, given | state | {"input_ids": target[:, start:end]})
        parts.append(found["logits"])
    return np.concatenate(parts, axis=1)
