"""What the recurrent task models have in common."""

from __future__ import annotations

from typing import Any

from kerasllm.models.recurrent.backbone import RecurrentBackbone


def checked_backbone(model: Any, backbone: RecurrentBackbone | None) -> RecurrentBackbone:
    """Returns the given backbone of a model, or a new one.

    Raises:
        ValueError: it was made with another config.
    """
    if backbone is None:
        backbone = RecurrentBackbone(model.config, seed=model.seed, dtype=model.dtype_policy)
    elif backbone.config != model.config:
        raise ValueError(
            f"the backbone was made with another config: {backbone.config} instead of {model.config}"
        )
    backbone.build({"token_ids": (None, None)})  # tells Keras the shapes that `summary` shows
    return backbone
