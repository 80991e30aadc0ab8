"""The FLOPs of a GPT's training step."""

from __future__ import annotations

from typing import Any

from kerasllm.models.flops import matrices, matrix_flops


def training_flops(model: Any, length: int, predicted: int) -> float:
    """Returns the FLOPs per token of one training step; see `kerasllm.models.flops` for what is counted.

    Args:
        model: a backbone or a task model.
        length: the number of tokens in a sequence.
        predicted: the number of positions in a sequence whose next token is predicted.
    """
    config = model.config
    per_token = per_prediction = 0.0
    for layer, _, flops in matrices(model):
        if layer == "head":
            per_prediction += flops
        else:
            per_token += flops
    if config.tie_embeddings and hasattr(model, "backbone"):
        per_prediction += matrix_flops(model.backbone.embeddings.token)
    attention = 12 * config.hidden_dim * length * config.num_layers
    return per_token + attention + per_prediction * predicted / length
