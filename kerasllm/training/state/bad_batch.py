"""Saves the batch that stopped a run together with the state before it, and runs it again from there.

bad_batch/step-00000057/state.safetensors   every variable as it was before the batch
bad_batch/step-00000057/state.json          step, figures, SHA-256 of the other files; as in a checkpoint
bad_batch/step-00000057/batch.safetensors   inputs, labels and weights: 0/token_ids, 1, 2, …
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasllm import processes
from kerasllm.errors import InputError
from kerasllm.files.atomic import write_atomically
from kerasllm.files.safetensors import array_entry, file_hash, read_safetensors, write_safetensors
from kerasllm.training.state.random_states import get_random_states
from kerasllm.training.state.training_state import (
    checkpoint_name,
    checksum,
    restore,
    take_part,
    variable_entries,
)


def save_bad_batch(
    directory: Path, model: keras.Model, batch: Any, step: int, figures: Mapping[str, float]
) -> Path:
    """Saves a batch that went wrong, and the state before it.

    Args:
        directory: the run's directory of bad batches, which keeps only the newest one; the first process writes it.
        model: the model, which the batch has left unchanged.
        batch: a tuple of arrays and dictionaries of arrays.
        step: the optimizer step that the batch belongs to.
        figures: the loss and other figures of the batch.

    Returns:
        The directory of the saved batch.
    """
    place = directory / checkpoint_name(step)
    if not processes.is_first():
        take_part(model)
        return place
    shutil.rmtree(directory, ignore_errors=True)
    place.mkdir(parents=True)
    entries = [array_entry(*named) for named in _flat(batch)]
    state = {
        "step": step,
        "seconds": 0.0,
        "callbacks": {},
        "random_states": get_random_states(),
        "figures": {name: str(value) for name, value in figures.items()},  # JSON has no NaN
        "backend": keras.backend.backend(),
        "sha256": write_safetensors(place / "state.safetensors", variable_entries(model)),
        "batch_sha256": write_safetensors(place / "batch.safetensors", entries),
    }
    state["checksum"] = checksum(state)
    write_atomically(place / "state.json", json.dumps(state) + "\n")
    return place


def batch_hash(batch: Any) -> str:
    """Returns the SHA-256 of a batch's names, shapes, dtypes and values, in hexadecimal."""
    digest = hashlib.sha256()
    names = dict(_flat(batch))
    for name, values in names.items():
        # A GPT's packed rows had their sequences under another name when the first runs were hashed.
        if name == "0/sequence_ids" and "0/segment_ids" not in names:
            name = "0/segment_ids"
        digest.update(f"{name} {values.shape} {values.dtype}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def replay_bad_batch(directory: Path, model: keras.Model) -> str:
    """Runs the saved batch once, from the saved state.

    Args:
        directory: the run's directory of bad batches.
        model: the model, compiled as in the run.

    Returns:
        A text with the figures that the batch gives now, and those that it gave then.

    Raises:
        InputError: there is no saved batch, or it is damaged.
    """
    restored = restore(model, directory)
    if restored is None:
        reason = "it is damaged" if any(directory.glob("step-*")) else "none has stopped this run"
        raise InputError(f"{directory} holds no batch to replay: {reason}")
    model.catch_non_finite = True
    before = json.loads((restored.path / "state.json").read_text(encoding="utf-8"))
    file = restored.path / "batch.safetensors"
    if not file.is_file() or file_hash(file) != before.get("batch_sha256"):
        raise InputError(f"{file} is damaged: there is nothing to replay")
    arrays = dict(read_safetensors(file))
    if "0/segment_ids" in arrays and not getattr(getattr(model, "config", None), "num_segments", 1):
        arrays["0/sequence_ids"] = arrays.pop("0/segment_ids")  # as kerasllm 0.1 named it for a GPT
    logs = model.train_on_batch(*_nested(arrays), return_dict=True)
    again, then = _in_words(logs), _in_words(before["figures"])
    return f"step {restored.step} again: {again}\nwhen it stopped the run ({before['backend']}): {then}"


def _in_words(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {float(figures[name]):.8g}" for name in sorted(figures))


def _flat(batch: Any) -> Iterator[tuple[str, np.ndarray]]:
    for position, part in enumerate(batch):
        if isinstance(part, Mapping):
            for name, values in part.items():
                yield f"{position}/{name}", np.asarray(values)
        else:
            yield f"{position}", np.asarray(part)


def _nested(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    parts: dict[str, Any] = {}
    for name, values in arrays.items():
        position, _, key = name.partition("/")
        if key:
            parts.setdefault(position, {})[key] = np.array(values)
        else:
            parts[position] = np.array(values)
    return [parts[position] for position in sorted(parts)]
