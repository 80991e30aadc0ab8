"""Checkpoints in Hugging Face's format; importing this gives the models `from_pretrained` and `save_pretrained`."""

from kerasllm.checkpoints.hugging_face import (
    check_checkpoint,
    read_model,
    read_settings,
    resolve_directory,
    write_model,
)
from kerasllm.models.language_model import install_checkpoints

install_checkpoints(read_model, write_model)

__all__ = ["check_checkpoint", "read_model", "read_settings", "resolve_directory", "write_model"]
