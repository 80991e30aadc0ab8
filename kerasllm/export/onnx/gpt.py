"""GPT as an ONNX graph with cached keys and values, in GPT-2's form, in Llama's, and in all between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from kerasllm.export.onnx.graph import Graph
from kerasllm.export.onnx.layers import (
    BlockShape,
    KeysAndValues,
    causal_mask,
    decoder_block,
    norm,
    real_tokens,
    scores,
)
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.models import GPTConfig

ROWS, LENGTH = "batch_size", "sequence_length"
PAST, TOTAL = "past_sequence_length", "total_sequence_length"


def graphs(model: Any) -> dict[str, Graph]:
    """Returns the graph of a `GPTCausalLM`, by the name of its file."""
    config: GPTConfig = model.config
    graph = Graph(model, "gpt")
    ids = graph.input("input_ids", np.int64, (ROWS, LENGTH))
    attention_mask = graph.input("attention_mask", np.int64, (ROWS, TOTAL))
    positions = graph.input("position_ids", np.int64, (ROWS, LENGTH))
    cached = (ROWS, config.key_value_heads, PAST, config.head_dim)
    past = [
        KeysAndValues(
            *(graph.input(f"past_key_values.{index}.{part}", np.float32, cached) for part in ("key", "value"))
        )
        for index in range(config.num_layers)
    ]
    mask = graph.add(
        "And",
        causal_mask(graph, graph.size(past[0].key, 2), ids),
        real_tokens(graph, attention_mask),
    )
    hidden = graph.add("Gather", graph.weight("embeddings/token"), ids)
    rotary = None
    if config.positions == "learned":
        hidden = graph.add("Add", hidden, graph.add("Gather", graph.weight("embeddings/position"), positions))
    else:
        rotary = _rotary_tables(graph, positions, config)
    shape = BlockShape(
        num_heads=config.num_heads,
        num_key_value_heads=config.key_value_heads,
        head_dim=config.head_dim,
        activation=config.activation,
        is_gated=config.feed_forward == "gated",
        normalization=config.normalization,
        epsilon=config.layer_norm_epsilon,
        normalize_first=True,
    )
    presents = []
    for index, earlier in enumerate(past):
        hidden, present = decoder_block(graph, hidden, f"block_{index}/", mask, shape, earlier, rotary=rotary)
        presents.append(present)
    hidden = norm(graph, hidden, "final_norm/norm_", config.normalization, config.layer_norm_epsilon)
    table = graph.weight("embeddings/token" if model.head is None else "head/kernel")
    size = config.vocabulary_size
    logits = scores(graph, hidden, table, "", config.hidden_dim, size)
    graph.output("logits", logits, (ROWS, LENGTH, size))
    extended = (ROWS, config.key_value_heads, TOTAL, config.head_dim)
    for index, present in enumerate(presents):
        graph.output(f"present.{index}.key", present.key, extended)
        graph.output(f"present.{index}.value", present.value, extended)
    return {"model": graph}


def _rotary_tables(graph: Graph, positions: str, config: GPTConfig) -> tuple[str, str]:
    """Returns cosines and sines (batch, 1, length, head_dim / 2)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.exp(-exponents * np.float32(math.log(config.rotary_base)))
    places = graph.axes(graph.add("Cast", positions, to=TensorProto.FLOAT), 1, 3)
    angles = graph.add("Mul", places, graph.constant(frequencies, np.float32))
    return graph.add("Cos", angles), graph.add("Sin", angles)


def run(sessions: Sessions, model: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the logits (batch, length, vocabulary_size), computed by the exported file.

    All but the last two tokens are computed at once, and these one by one, with the keys and values of the others.

    Args:
        sessions: the exported file.
        model: the model.
        inputs: `token_ids`, and optionally `padding_mask` and `position_ids`, each int (batch, length).
    """
    config: GPTConfig = model.config
    token_ids = inputs["token_ids"]
    rows, length = token_ids.shape
    mask = inputs.get("padding_mask", np.ones_like(token_ids))
    positions = inputs.get("position_ids", np.tile(np.arange(length), (rows, 1)))
    empty = np.zeros((rows, config.key_value_heads, 0, config.head_dim), np.float32)
    names = [f"{index}.{part}" for index in range(config.num_layers) for part in ("key", "value")]
    past = {f"past_key_values.{name}": empty for name in names}
    edges = sorted({0, *range(max(length - 2, 1), length + 1)})
    parts = []
    for start, end in itertools.pairwise(edges):
        found = sessions.run(
            "model",
            {
                "input_ids": token_ids[:, start:end],
                "attention_mask": mask[:, :end],
                "position_ids": positions[:, start:end],
                **past,
            },
        )
        parts.append(found["logits"])
        past = {f"past_key_values.{name}": found[f"present.{name}"] for name in names}
    return np.concatenate(parts, axis=1)
