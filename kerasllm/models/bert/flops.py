"""The FLOPs of a BERT's training step."""

from __future__ import annotations

from typing import Any

from kerasllm.models.flops import matrices, matrix_flops


def training_flops(model: Any, length: int, predicted: int) -> float:
    """Returns the FLOPs per token of one training step; see `kerasllm.models.flops` for what is counted.

    The pooler and a classifier count once per sequence. The last block computes keys and values at all positions; the
    rest of it counts only at the positions that a head reads.

    Args:
        model: a backbone or a task model.
        length: the number of tokens in a sequence.
        predicted: the number of positions in a sequence whose token is predicted.
    """
    config, backbone = model.config, getattr(model, "backbone", model)
    masked_lm = getattr(model, "masked_lm_head", None) is not None
    read = length
    every = getattr(model, "reads_all", False)
    if model is not backbone and not every:
        read = min(length, (predicted if masked_lm else 0) + (backbone.pooler is not None))
    last = f"block_{config.num_layers - 1}"
    per_token = per_prediction = per_sequence = per_read = 0.0
    for layer, weight, flops in matrices(model):
        if layer == last and read < length:
            queries = flops / 3 if weight == "query_key_value_kernel" else flops
            per_read += queries
            per_token += flops - queries
        elif layer.startswith("block_") or every:
            per_token += flops
        elif layer == "masked_lm_head":
            per_prediction += flops
        else:
            per_sequence += flops
    if masked_lm:
        per_prediction += matrix_flops(backbone.embeddings.token)
    attention = 12 * config.hidden_dim * (length * (config.num_layers - 1) + read)
    return per_token + attention + (per_prediction * predicted + per_read * read + per_sequence) / length
