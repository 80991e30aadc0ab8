"""Writes models in Hugging Face's format, and sends them to the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints.hub import resolve_directory, upload_directory
from kerasllm.checkpoints.model_card import write_model_card
from kerasllm.checkpoints.name_table import Format
from kerasllm.checkpoints.weights import number_of_bytes, write_json, write_weights
from kerasllm.errors import InputError


def write_model(
    model: Any,
    directory: str | Path,
    *,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes a model's directory; `model.save_pretrained` calls this and describes the arguments.

    Args:
        model: has `config`, `named_variables`, `merged` and `hugging_face_format`; a task model has a `backbone` too.
        directory: made if it is missing.
        tokenizer: of the `tokenizers` library; its files are written too.
        max_shard_size: larger weights are divided into files of that many bytes, and an index.
    """
    directory = Path(directory)
    stored = model.hugging_face_format
    largest = number_of_bytes(max_shard_size)
    config = stored.write_config(model)
    write_weights(directory, _tensors(model, stored), largest)
    write_json(directory / "config.json", config)
    generation = stored.write_generation(model)
    if generation is not None:
        write_json(directory / "generation_config.json", {"_from_model_config": True, **generation})
    else:  # of another model that was here
        (directory / "generation_config.json").unlink(missing_ok=True)
    if tokenizer is not None:
        from kerasllm.tokenizers.saving import save_tokenizer

        save_tokenizer(tokenizer, directory, max_length=model.config.max_sequence_length)
    if not (directory / "README.md").exists():
        write_model_card(directory, stored)


def _tensors(model: Any, stored: Format) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the weights under their names; the task models put a prefix before the backbone's."""
    is_backbone = not hasattr(model, "backbone")
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
    """Sends a model, or the model of a finished run, to the hub; `model.push_to_hub` calls this.

    Args:
        source: a model; or a model directory or run, which is sent as it is, card and tokenizer included.
        repo_id: OWNER/NAME; made if it is missing.
        tokenizer: sent along with a model.
        private: of a new repository; the owner's default where None.
        revision: branch; the main one where None.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        InputError: there is no such model, no permission, or the hub does not answer.
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
