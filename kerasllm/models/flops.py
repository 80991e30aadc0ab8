"""The arithmetic of one weight in training, which the families add up.

PaLM's formula is 6 FLOPs a weight and token, and 12 * layers * hidden_dim * length for the attention over a sequence of
that length, causal or not. Here "weight" means one in a matrix product: embeddings are looked up, which is free. The
projection to the vocabulary counts only at the positions that are predicted. A weight that is not trained (LoRA) takes
4 FLOPs: there is no gradient of it.

Reference: Chowdhery et al. 2022, "PaLM", https://arxiv.org/abs/2204.02311, appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def matrix_flops(variable: Any) -> int:
    """Returns the FLOPs of all weights of a matrix, for one token, forward and backward."""
    return (6 if variable.trainable else 4) * math.prod(variable.shape)


def matrices(model: Any) -> Iterator[tuple[str, str, int]]:
    """Yields the layer, the weight's name and the FLOPs of each matrix in a product, without the embeddings."""
    for name, variable in model.named_variables().items():
        layer, _, weight = name.partition("/")
        if len(variable.shape) > 1 and layer != "embeddings":
            yield layer, weight, matrix_flops(variable)
