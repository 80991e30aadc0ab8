"""Writing of models in Hugging Face's format, and uploading them to the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints.hub import resolve_directory, upload_directory
from kerasllm.checkpoints.model_card import write_model_card
from kerasllm.checkpoints.name_table import Format
from kerasllm.checkpoints.reading import GENERATION_FILE
from kerasllm.checkpoints.weights import number_of_bytes, write_json, write_weights
from kerasllm.errors import InputError


def write_model(
    model: Any,
    directory: str | Path,
    *,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes a model directory; `LanguageModel.save_pretrained` calls this.

    Args:
        model: a model with `config`, `named_variables`, `merged` and `hugging_face_format`, and as a task model also
            with a `backbone`.
        directory: the directory, which is created if it is missing.
        tokenizer: a tokenizer of the `tokenizers` library, whose files are written too.
        max_shard_size: the largest size of a weights file, in bytes or as in "100MB"; a larger model is divided into
            several files with an index.
    """
    directory = Path(directory)
    stored = model.hugging_face_format
    largest = number_of_bytes(max_shard_size)
    stored.write_config(model)  # raises before anything is written, if the format has no name for a setting
    write_weights(directory, _tensors(model, stored), largest)
    write_description(model, directory, tokenizer=tokenizer)
    if not (directory / "README.md").exists():
        write_model_card(directory, stored)


def write_description(model: Any, directory: Path, *, tokenizer: Any = None) -> None:
    """Writes what describes a model beside its weights: config.json, generation_config.json, and the tokenizer's files.

    Args:
        model: as for `write_model`.
        directory: the directory, which exists.
        tokenizer: as for `write_model`.
    """
    stored = model.hugging_face_format
    write_json(directory / "config.json", stored.write_config(model))
    generation = stored.write_generation(model)
    if generation is not None:
        write_json(directory / GENERATION_FILE, generation)
    else:  # one may be left from another model
        (directory / GENERATION_FILE).unlink(missing_ok=True)
    stored.write_parts(model, directory)
    if tokenizer is not None:
        from kerasllm.tokenizers.saving import save_tokenizer

        save_tokenizer(tokenizer, directory, max_length=model.config.max_sequence_length)


def _tensors(model: Any, stored: Format) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the names and values of the tensors; in task models with a head the backbone's names have a prefix."""
    is_backbone = getattr(model, "headless", not hasattr(model, "backbone"))
    variables = model.named_variables()
    for entry in stored.entries(model.config):
        if entry.ours in variables:
            value = np.asarray(model.merged(entry.ours), dtype=np.float32)
            for name, part in entry.split(value):
                yield stored.qualified(name, is_backbone), part


def push_model(
    source: Any,
    repo_id: str,
    *,
    tokenizer: Any = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a model of kerasllm",
) -> str:
    """Uploads a model, or the model of a finished run, to the hub; `LanguageModel.push_to_hub` calls this.

    Args:
        source: a model; or a model directory or run, whose files are uploaded unchanged, with model card and tokenizer.
        repo_id: the repository, OWNER/NAME, which is created if it is missing.
        tokenizer: a tokenizer that is uploaded with a model; unused for a directory.
        private: whether a new repository is private; None means the owner's default.
        revision: the branch; None means the main branch.
        message: the commit message.

    Returns:
        The URL of the commit.

    Raises:
        InputError: there is no such model, the upload is not permitted, or the hub does not answer.
    """
    if isinstance(source, str | Path):
        if not Path(source).is_dir():
            raise InputError(f"{source}: there is no such directory")
        return upload_directory(
            resolve_directory(source), repo_id, private=private, revision=revision, message=message
        )
    with tempfile.TemporaryDirectory() as directory:
        write_model(source, directory, tokenizer=tokenizer)
        return upload_directory(Path(directory), repo_id, private=private, revision=revision, message=message)
