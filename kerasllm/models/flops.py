"""The FLOPs of each weight in training, which the families add up.

PaLM's formula counts 6 FLOPs per weight and token, and 12 * layers * hidden_dim * length per token for the attention
over a sequence of that length, causal or not. Only weights in matrix products count here, as embedding lookups are
free. The projection to the vocabulary counts only at the positions that are predicted. A frozen weight (LoRA) counts 4
FLOPs, as it has no gradient.

Reference: Chowdhery et al. 2022, "PaLM", https://arxiv.org/abs/2204.02311, appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def matrix_flops(variable: Any) -> int:
    """Returns the FLOPs of a weight matrix for one token, forward and backward."""
    return (6 if variable.trainable else 4) * math.prod(variable.shape)


def matrices(model: Any) -> Iterator[tuple[str, str, int]]:
    """Yields the layer name, the weight name and the FLOPs of each weight matrix, without the embeddings."""
    for name, variable in model.named_variables().items():
        layer, _, weight = name.partition("/")
        if len(variable.shape) > 1 and layer != "embeddings":
            yield layer, weight, matrix_flops(variable)
