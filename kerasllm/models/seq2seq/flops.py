"""The FLOPs of an encoder-decoder's training step."""

from __future__ import annotations

from typing import Any

from kerasllm.models.flops import matrices, matrix_flops


def training_flops(model: Any, length: int, predicted: int) -> float:
    """Returns the FLOPs per token of one training step; see `kerasllm.models.flops` for what is counted.

    Source and target count as equally long, and tokens are those of both.

    Args:
        model: a backbone or a task model.
        length: the number of tokens of a source, and of a target.
        predicted: the number of target tokens that are predicted.
    """
    config, backbone = model.config, getattr(model, "backbone", model)
    per_pair = 0.0  # per token of a source and a token of a target
    for layer, _, flops in matrices(model):
        if layer != "head":
            per_pair += flops
    table = matrix_flops(backbone.embeddings.token) if model is not backbone else 0
    blocks = config.num_layers + 2 * (config.num_decoder_layers or 0)  # a decoder block has two attentions
    attention = 12 * config.hidden_dim * length * blocks
    return (per_pair + attention + table * predicted / length) / 2
