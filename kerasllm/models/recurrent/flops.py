"""The FLOPs of a recurrent model's training step."""

from __future__ import annotations

from typing import Any

from kerasllm.models.flops import matrices, matrix_flops


def training_flops(model: Any, length: int, predicted: int) -> float:
    """Returns the FLOPs per token of one training step; see `kerasllm.models.flops` for what is counted.

    Args:
        model: a backbone or a task model; a classifier counts once per sequence.
        length: the number of tokens in a sequence.
        predicted: the number of positions in a sequence whose next token is predicted.
    """
    per_token = per_prediction = per_sequence = 0.0
    for layer, _, flops in matrices(model):
        if layer == "head":
            per_prediction += flops
        elif layer == "classifier":
            per_sequence += flops
        else:
            per_token += flops
    if model.config.tie_embeddings and hasattr(model, "output_table"):
        per_prediction += matrix_flops(model.output_table)
    return per_token + (per_prediction * predicted + per_sequence) / length
