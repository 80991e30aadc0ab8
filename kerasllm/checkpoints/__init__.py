"""Checkpoints in Hugging Face's format; importing this gives the models `from_pretrained` and `save_pretrained`."""

from kerasllm.checkpoints.hub import resolve_directory
from kerasllm.checkpoints.hugging_face import (
    check_checkpoint,
    push_model,
    read_model,
    read_settings,
    write_model,
)
from kerasllm.checkpoints.keras_hub import from_keras_hub, to_keras_hub
from kerasllm.checkpoints.model_card import write_model_card
from kerasllm.models.base import install_checkpoints

install_checkpoints(read_model, write_model, push_model)

__all__ = [
    "check_checkpoint",
    "from_keras_hub",
    "push_model",
    "read_model",
    "read_settings",
    "resolve_directory",
    "to_keras_hub",
    "write_model",
    "write_model_card",
]
