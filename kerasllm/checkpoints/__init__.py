"""Reading and writing of checkpoints in Hugging Face's format, and conversion of KerasHub's backbones.

This package knows no family of models: each family passes in its formats, name tables and classes
(`kerasllm.models.registry`).
"""

from kerasllm.checkpoints.hub import resolve_directory
from kerasllm.checkpoints.name_table import Architecture, Entry, Format
from kerasllm.checkpoints.reading import read_model
from kerasllm.checkpoints.writing import push_model, write_model

__all__ = [
    "Architecture",
    "Entry",
    "Format",
    "push_model",
    "read_model",
    "resolve_directory",
    "write_model",
]
