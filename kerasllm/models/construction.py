"""What the constructors of all task models have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kerasllm.models.base import LanguageModel

Backbone = TypeVar("Backbone", bound=LanguageModel)


def checked_backbone(
    model: LanguageModel, backbone: Backbone | None, make: Callable[..., Backbone], *inputs: str
) -> Backbone:
    """Returns the given backbone of a task model, which may be trained already, or a new one.

    Args:
        model: the task model.
        backbone: the backbone, or None.
        make: the class of the backbone, or a function that takes the same arguments.
        inputs: the names of the inputs that it cannot do without, each (batch, length).

    Raises:
        ValueError: the backbone was made with another config.
    """
    if backbone is None:
        backbone = make(model.config, seed=model.seed, dtype=model.dtype_policy)
    elif backbone.config != model.config:
        raise ValueError(
            f"the backbone was made with another config: {backbone.config} instead of {model.config}"
        )
    # This tells Keras the shapes that `summary` shows.
    backbone.build(dict.fromkeys(inputs or ("token_ids",), (None, None)))
    return backbone
