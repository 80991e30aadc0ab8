"""The encoder-decoder as two ONNX graphs: the encoder, and a decoder for the first and for all later tokens.

The decoder is what `transformers`' exporters call a merged one: its input `use_cache_branch` tells whether the keys and
values of the encoder's output are in `past_key_values` already, or are to be computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasllm.export.onnx.graph import Graph
from kerasllm.export.onnx.layers import (
    BlockShape,
    KeysAndValues,
    causal_mask,
    decoder_block,
    dense,
    encoder_block,
    norm,
    real_tokens,
    scores,
    split_heads,
)
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.layers.scaled_embeddings import sinusoids
from kerasllm.models import Seq2SeqConfig

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
ROWS = "batch_size"
SOURCE, TARGET = "encoder_sequence_length", "decoder_sequence_length"
PAST, TOTAL = "past_decoder_sequence_length", "total_decoder_sequence_length"
PAST_SOURCE = "past_encoder_sequence_length"


def graphs(model: Any) -> dict[str, Graph]:
    """Returns the graphs of a `Seq2SeqLM`'s encoder and decoder, by the names of their files."""
    return {ENCODER: _encoder(model), DECODER: _decoder(model)}


def _shape(config: Seq2SeqConfig) -> BlockShape:
    return BlockShape(
        num_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.head_dim,
        activation=config.activation,
        is_gated=config.feed_forward == "gated",
        normalization=config.normalization,
        epsilon=config.layer_norm_epsilon,
        normalize_first=config.normalize_first,
    )


def _encoder(model: Any) -> Graph:
    config = model.config
    graph = Graph(model, "encoder")
    ids = graph.input("input_ids", np.int64, (ROWS, SOURCE))
    mask = real_tokens(graph, graph.input("attention_mask", np.int64, (ROWS, SOURCE)))
    hidden = _embed(graph, model, ids, graph.constant([0]), "source")
    for index in range(config.num_layers):
        hidden = encoder_block(graph, hidden, f"encoder_block_{index}/", mask, _shape(config))
    hidden = _last_norm(graph, hidden, "encoder_norm/norm_", config)
    graph.output("last_hidden_state", hidden, (ROWS, SOURCE, config.hidden_dim))
    return graph


def _decoder(model: Any) -> Graph:
    config, shape = model.config, _shape(model.config)
    graph = Graph(model, "decoder")
    source_mask = graph.input("encoder_attention_mask", np.int64, (ROWS, SOURCE))
    ids = graph.input("input_ids", np.int64, (ROWS, TARGET))
    encoded = graph.input("encoder_hidden_states", np.float32, (ROWS, SOURCE, config.hidden_dim))
    past: list[dict[str, KeysAndValues]] = []
    for index in range(config.num_decoder_layers):
        past.append({})
        for side, length in (("decoder", PAST), ("encoder", PAST_SOURCE)):
            size = (ROWS, config.num_heads, length, config.head_dim)
            names = (f"past_key_values.{index}.{side}.{part}" for part in ("key", "value"))
            past[-1][side] = KeysAndValues(*(graph.input(name, np.float32, size) for name in names))
    is_later = graph.input("use_cache_branch", np.bool_, (1,))

    start = graph.size(past[0]["decoder"].key, 2)
    hidden = _embed(graph, model, ids, start, "target")
    mask = causal_mask(graph, start, ids)
    cross_mask = real_tokens(graph, source_mask)
    presents = []
    for index, earlier in enumerate(past):
        name = f"decoder_block_{index}/"
        cross = _cross_keys_and_values(graph, name, is_later, earlier["encoder"], encoded, shape)
        hidden, present = decoder_block(
            graph, hidden, name, mask, shape, earlier["decoder"], cross=cross, cross_mask=cross_mask
        )
        presents.append({"decoder": present, "encoder": cross})
    hidden = _last_norm(graph, hidden, "decoder_norm/norm_", config)
    table = _token_table(graph, model) if model.head is None else graph.weight("head/kernel")
    bias = graph.add("Squeeze", graph.weight("output_bias/bias"), graph.constant([0]))
    size = config.vocabulary_size
    graph.output("logits", scores(graph, hidden, table, bias, config.hidden_dim, size), (ROWS, TARGET, size))
    for index, sides in enumerate(presents):
        for side, found in sides.items():
            lengths = (ROWS, config.num_heads, TOTAL if side == "decoder" else SOURCE, config.head_dim)
            graph.output(f"present.{index}.{side}.key", found.key, lengths)
            graph.output(f"present.{index}.{side}.value", found.value, lengths)
    return graph


def _cross_keys_and_values(
    graph: Graph, name: str, is_later: str, earlier: KeysAndValues, encoded: str, shape: BlockShape
) -> KeysAndValues:
    """Returns the keys and values of the encoder's output: the earlier ones, or new ones at the first token."""
    later, first = graph.branch(f"{name}later"), graph.branch(f"{name}first")
    size = (ROWS, shape.num_heads, SOURCE, shape.head_dim)
    projected = dense(first, encoded, f"{name}cross_attention_key_value_")
    halves = first.add_several("Split", projected, outputs=2, axis=-1, num_outputs=2)
    for part, kept, half in zip(("key", "value"), (earlier.key, earlier.value), halves, strict=True):
        later.output(f"{name}{part}_later", kept, size)
        first.output(f"{name}{part}_first", split_heads(first, half, shape.num_heads, shape.head_dim), size)
    found = graph.add_several("If", is_later, outputs=2, then_branch=later.proto(), else_branch=first.proto())
    return KeysAndValues(*found)


def _token_table(graph: Graph, model: Any) -> str:
    """Returns the table of token embeddings, whose row of padding is zero."""
    name, config = "embeddings/token", model.config
    if name not in graph.weights:
        values = np.array(model.merged(name), np.float32)
        values[config.pad_token_id] = 0
        graph.table(name, values)
    return name


def _embed(graph: Graph, model: Any, ids: str, start: str, side: str) -> str:
    """Returns the embeddings of tokens whose positions begin at `start`, int64 (1,)."""
    config = model.config
    hidden = graph.add("Gather", _token_table(graph, model), ids)
    if config.scale_embedding:
        hidden = graph.add("Mul", hidden, graph.number(math.sqrt(config.hidden_dim)))
    if config.positions == "learned":
        table = graph.weight(f"embeddings/{side}_position")
    else:
        table = graph.table("positions", sinusoids(config.max_sequence_length, config.hidden_dim))
    end = graph.add("Add", start, graph.size(ids, 1))
    return graph.add("Add", hidden, graph.rows(table, start, end))


def _last_norm(graph: Graph, hidden: str, name: str, config: Seq2SeqConfig) -> str:
    if not config.normalize_first:
        return hidden
    return norm(graph, hidden, name, config.normalization, config.layer_norm_epsilon)


def run(sessions: Sessions, model: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the logits (batch, target_length, vocabulary_size), computed by the exported files.

    All but the last two target tokens are computed at once, and these one by one.

    Args:
        sessions: the exported files.
        model: the model.
        inputs: `encoder_token_ids` and `decoder_token_ids`, and optionally `encoder_padding_mask`.
    """
    config: Seq2SeqConfig = model.config
    source, target = inputs["encoder_token_ids"], inputs["decoder_token_ids"]
    mask = inputs.get("encoder_padding_mask", np.ones_like(source))
    encoded = sessions.run(ENCODER, {"input_ids": source, "attention_mask": mask})["last_hidden_state"]
    rows, length = target.shape
    names = [
        f"{index}.{side}.{part}"
        for index in range(config.num_decoder_layers or 0)
        for side in ("decoder", "encoder")
        for part in ("key", "value")
    ]
    empty = np.zeros((rows, config.num_heads, 0, config.head_dim), np.float32)
    past = {f"past_key_values.{name}": empty for name in names}
    edges = sorted({0, *range(max(length - 2, 1), length + 1)})
    parts = []
    for start, end in itertools.pairwise(edges):
        found = sessions.run(
            DECODER,
            {
                "encoder_attention_mask": mask,
                "input_ids": target[:, start:end],
                "encoder_hidden_states": encoded,
                "use_cache_branch": np.array([start > 0]),
                **past,
            },
        )
        parts.append(found["logits"])
        past = {f"past_key_values.{name}": found[f"present.{name}"] for name in names}
    return np.concatenate(parts, axis=1)
