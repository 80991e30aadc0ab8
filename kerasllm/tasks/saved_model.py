"""A model on the disk, whose settings and tokenizer are checked before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasllm.checkpoints import resolve_directory
from kerasllm.models.registry import model_class_of, read_settings
from kerasllm.tokenizers.encoding import check_vocabulary
from kerasllm.tokenizers.loading import load_tokenizer


@dataclass(frozen=True)
class SavedModel:
    """A model on the disk, without its weights.

    Args:
        directory: the model's directory; for a hub id, the directory in the cache.
        config: the config, an instance of its family's config class.
        settings: the content of its config.json.
        tokenizer: the tokenizer, of the `tokenizers` library.
    """

    directory: Path
    config: Any
    settings: Mapping[str, Any]
    tokenizer: Any

    @property
    def model_class(self) -> Any:
        """The class of the model, as config.json names it."""
        return model_class_of(self.settings, self.directory)


def open_model(
    source: str | Path,
    config_class: type | tuple[type, ...] | None = None,
    load: Callable[[Path], Any] = load_tokenizer,
) -> SavedModel:
    """Returns a saved model, after checking that its tokenizer fits its vocabulary size.

    Args:
        source: a run directory, a model directory or a hub id.
        config_class: the config class of the expected family, or several; None accepts any family.
        load: a function that loads the tokenizer in a directory.

    Raises:
        InputError: there is no such model, it is of another family, or the tokenizer does not fit it.
    """
    directory = resolve_directory(source)
    config, settings = read_settings(directory, config_class)
    tokenizer = load(directory)
    check_vocabulary(tokenizer, config.vocabulary_size, directory)
    return SavedModel(directory, config, settings, tokenizer)
