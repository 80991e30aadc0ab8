"""The weight names of KerasHub's GPT2Backbone."""

from __future__ import annotations

from typing import Any

from kerasllm.checkpoints.keras_hub import KerasHubTable, dense, norm
from kerasllm.checkpoints.name_table import Entry
from kerasllm.errors import InputError
from kerasllm.models.gpt.config import GPTConfig
from kerasllm.models.gpt.hugging_face import GPT2_SHAPE


def _entries(config: GPTConfig) -> list[Entry]:
    """Returns the name table; KerasHub's attention tensors have a separate axis for the heads."""
    width, wide = config.hidden_dim, config.intermediate_dim or 4 * config.hidden_dim
    tables = {"token": config.vocabulary_size, "position": config.max_sequence_length}
    found = [
        Entry(f"embeddings/{name}", (f"{name}_embedding/embeddings",), (rows, width))
        for name, rows in tables.items()
    ]
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"transformer_layer_{index}/"
        attention = f"{theirs}self_attention/"
        projections = tuple(f"{attention}{name}" for name in ("query", "key", "value"))
        found += norm(f"{ours}attention_norm_", f"{theirs}self_attention_layer_norm", width)
        found += dense(f"{ours}query_key_value_", (width, 3 * width), *projections)
        found += dense(f"{ours}attention_output_", (width, width), f"{attention}attention_output")
        found += norm(f"{ours}feed_forward_norm_", f"{theirs}feedforward_layer_norm", width)
        found += dense(f"{ours}intermediate_", (width, wide), f"{theirs}feedforward_intermediate_dense")
        found += dense(f"{ours}output_", (wide, width), f"{theirs}feedforward_output_dense")
    return found + norm("final_norm/norm_", "layer_norm", width)


def _check(backbone: Any) -> None:
    config = backbone.config
    for name, value in (GPT2_SHAPE | {"num_key_value_heads": config.num_heads}).items():
        found = getattr(config, name)
        if found != value:
            raise InputError(f"{name} is {found!r}, KerasHub's GPT2Backbone has {value!r}")


KERAS_HUB = KerasHubTable("GPT2Backbone", _entries, _check)
