"""Names the variables of the training state, and restores a checkpoint into a model.

A checkpoint is a directory that is renamed into place once all of it is on the disk:

    checkpoints/step-00000040/state.safetensors   every variable
    checkpoints/step-00000040/state.json          step, callbacks, random states, versions, SHA-256 of the other file

`restore` takes the newest checkpoint whose hashes are right, so no pointer to the newest one can be wrong.

Names in state.safetensors are `model/00007/kernel` and `optimizer/00003/momentum`: the position among the
model's variables (`model.variables`, seed generators included) or the optimizer's, and the last word of the
name. Keras numbers its automatic names by how many layers the process has made, so whole paths would differ
from one process to the next. Positions do not, nor do they differ between backends, so a run may be resumed on
another backend. There, kerasllm's dropout masks continue as they would have, since they are hashes; a user's own
`keras.layers.Dropout` draws other numbers.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.files.safetensors import Entry, file_hash, read_safetensors
from kerasllm.training.state.random_states import check_random_states

# Reading damaged files raises one of these; a file may have been altered together with its checksum.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
_STEP_DIRECTORY = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class RestoredState:
    """The part of a checkpoint that `restore` does not put into the model and its optimizer.

    Args:
        step: optimizer steps done.
        seconds: training time so far.
        path: directory of the checkpoint.
        callbacks: the callbacks' states by name.
        arrays: the callbacks' arrays by `callback/name/key`.
        random_states: result of `get_random_states`, which `Checkpoint` restores when training begins.
    """

    step: int
    seconds: float
    path: Path
    callbacks: dict[str, Any]
    arrays: dict[str, np.ndarray]
    random_states: dict[str, Any]


def restore(model: keras.Model, directory: str | Path) -> RestoredState | None:
    """Loads the newest intact checkpoint into a model and its optimizer; damaged ones are skipped with a message.

    Args:
        model: a built and compiled model with the configuration of the checkpoint's.
        directory: `RunDirectory.checkpoints`.

    Returns:
        The rest of the state, for `Checkpoint(restored=…)`; None if there is no intact checkpoint.

    Raises:
        InputError: the checkpoint's variables are not the model's; the message names the first difference.
    """
    for _, path in list_checkpoints(Path(directory)):
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if checksum(state) != state["checksum"]:
                raise ValueError("state.json is not what was written")
            if file_hash(path / "state.safetensors") != state["sha256"]:
                raise ValueError("state.safetensors is not what was written")
            arrays = read_safetensors(path / "state.safetensors")
            if checkpoint_name(state["step"]) != path.name:
                raise ValueError("state.json is that of another step")
            check_random_states(state["random_states"])
            restored = RestoredState(
                state["step"],
                float(state["seconds"]),
                path,
                {_without_position(name): value for name, value in state["callbacks"].items()},
                {
                    f"callback/{_without_position(name.removeprefix('callback/'))}": array
                    for name, array in arrays.items()
                    if name.startswith("callback/")
                },
                state["random_states"],
            )
        except _DAMAGED as error:
            # The message may quote the file, with invalid characters and at any length.
            reason = str(error).encode(errors="backslashreplace").decode()[:200]
            print(f"{path} is damaged ({reason}): skipped", file=sys.stderr)
            continue
        _assign(model, arrays, path)
        return restored
    return None


def _without_position(name: str) -> str:
    """Returns the name of a callback's state without the position that kerasllm 0.1 put before it: `1-Evaluation`."""
    return re.sub(r"^\d+-", "", name)


def _assign(model: keras.Model, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    if not model.built:
        raise ValueError("the model must be built before its state is restored")
    backend.divide(model)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables = dict(_named_variables(model))
    for name, variable in variables.items():
        if name not in arrays:
            raise InputError(f"{path} holds no {name} (this model's {variable.path}); the settings differ")
        if arrays[name].shape != backend.shape(variable):
            raise InputError(
                f"{path}: {name} has shape {arrays[name].shape}, this model's {variable.path} "
                f"{backend.shape(variable)}; the settings differ"
            )
    for name in arrays:
        if name not in variables and not name.startswith("callback/"):
            raise InputError(f"{path} holds {name}, which this model has not; the settings differ")
    for name, variable in variables.items():
        # The array is copied, since the backend may keep it and the file may be removed.
        backend.assign(variable, np.array(arrays[name]).astype(variable.dtype))


def _named_variables(model: keras.Model) -> Iterator[tuple[str, Any]]:
    seen = set()
    position = 0
    for variable in model.variables:
        if id(variable) not in seen:  # a shared seed generator is listed once for each layer
            seen.add(id(variable))
            yield f"model/{position:05d}/{variable.name}", variable
            position += 1
    for position, variable in enumerate(model.optimizer.variables if model.optimizer else ()):
        # Keras names these after the model's variable, automatic numbers included, followed by their own role.
        yield f"optimizer/{position:05d}/{variable.name.rsplit('_', 1)[-1]}", variable


def variable_entries(model: keras.Model) -> list[Entry]:
    """Returns all variables of a model and its optimizer, for `write_safetensors`."""
    return [
        Entry(
            name,
            backend.shape(variable),
            keras.backend.standardize_dtype(variable.dtype),
            partial(backend.whole, variable),
        )
        for name, variable in _named_variables(model)
    ]


def take_part(model: keras.Model) -> None:
    """Gathers the variables with the first process, which saves them while the others go on."""
    for entry in variable_entries(model):
        entry.fetch()


def checksum(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a state.json's content without the entry "checksum", in hexadecimal."""
    content = {name: value for name, value in state.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def checkpoint_name(step: int) -> str:
    """Returns the name of a step's checkpoint directory."""
    return f"step-{step:08d}"


def list_checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Returns step and path of all checkpoints, intact or not, newest first."""
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _STEP_DIRECTORY.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)
