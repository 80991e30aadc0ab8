"""The weight names of KerasHub's BertBackbone."""

from __future__ import annotations

from typing import Any

from kerasllm.checkpoints.keras_hub import KerasHubTable, dense, norm
from kerasllm.checkpoints.name_table import Entry
from kerasllm.errors import InputError
from kerasllm.models.bert.config import BertConfig


def _entries(config: BertConfig) -> list[Entry]:
    """Returns the name table; KerasHub's attention tensors have a separate axis for the heads."""
    width, wide = config.hidden_dim, config.intermediate_dim or 4 * config.hidden_dim
    tables = {
        "token": config.vocabulary_size,
        "position": config.max_sequence_length,
        "segment": config.num_segments,
    }
    found = [
        Entry(f"embeddings/{name}", (f"{name}_embedding/embeddings",), (rows, width))
        for name, rows in tables.items()
    ]
    found += norm("embeddings/norm_", "embeddings_layer_norm", width)
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"transformer_layer_{index}/"
        attention = f"{theirs}self_attention_layer/"
        projections = tuple(f"{attention}{name}" for name in ("query", "key", "value"))
        found += dense(f"{ours}query_key_value_", (width, 3 * width), *projections)
        found += dense(f"{ours}attention_output_", (width, width), f"{attention}attention_output")
        found += norm(f"{ours}attention_norm_", f"{theirs}self_attention_layer_norm", width)
        found += dense(f"{ours}intermediate_", (width, wide), f"{theirs}feedforward_intermediate_dense")
        found += dense(f"{ours}output_", (wide, width), f"{theirs}feedforward_output_dense")
        found += norm(f"{ours}output_norm_", f"{theirs}feedforward_layer_norm", width)
    return found + dense("pooler/", (width, width), "pooled_dense")


def _check(backbone: Any) -> None:
    if backbone.pooler is None:
        raise InputError("the model has no pooler, KerasHub's BertBackbone always has one")


KERAS_HUB = KerasHubTable("BertBackbone", _entries, _check, more_sizes=("num_segments",))
