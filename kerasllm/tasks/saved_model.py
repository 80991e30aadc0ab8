"""A model on the disk, looked over before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasllm.checkpoints import resolve_directory
from kerasllm.models.registry import read_settings
from kerasllm.tokenizers.encoding import check_vocabulary
from kerasllm.tokenizers.loading import load_tokenizer


@dataclass(frozen=True)
class SavedModel:
    """What is known of a model before its weights are read.

    Args:
        directory: where it lies, fetched if it was a hub id.
        config: of its family.
        settings: the content of its config.json.
        tokenizer: of the `tokenizers` library.
    """

    directory: Path
    config: Any
    settings: Mapping[str, Any]
    tokenizer: Any


def open_model(source: str, config_class: type, load: Callable[[Path], Any] = load_tokenizer) -> SavedModel:
    """Returns a model's settings and its tokenizer, which are checked to belong together.

    Args:
        source: a run, a model directory or a hub id.
        config_class: of the family that is wanted.
        load: returns the tokenizer in a directory.

    Raises:
        InputError: there is no such model, it is of another family, or the tokenizer does not fit it.
    """
    directory = resolve_directory(source)
    config, settings = read_settings(directory, config_class)
    tokenizer = load(directory)
    check_vocabulary(tokenizer, config.vocabulary_size, directory)
    return SavedModel(directory, config, settings, tokenizer)
