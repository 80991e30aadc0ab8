"""Names the variables of the training state, and restores a checkpoint into a model.

A checkpoint is a directory that is renamed into place once all of it is on the disk:

    checkpoints/step-00000040/state.safetensors   every variable
    checkpoints/step-00000040/state.json          step, callbacks, random states, versions, SHA-256 of the other file

`restore` takes the newest checkpoint whose hashes are right, so no pointer to the newest one can be wrong. Where
processes have divided the variables, there are further files, see `parts`.

Names in state.safetensors are `model/00007/kernel` and `optimizer/00003/momentum`: the position among the
model's variables (`model.variables`, seed generators included) or the optimizer's, and the last word of the
name. Keras numbers its automatic names by how many layers the process has made, so whole paths would differ
from one process to the next. Positions do not, nor do they differ between backends, so a run may be resumed on
another backend. There, kerasllm's dropout masks continue as they would have, since they are hashes; a user's own
`keras.layers.Dropout` draws other numbers.
"""

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

from kerasllm import backend, processes
from kerasllm.errors import InputError
from kerasllm.files.safetensors import Entry, file_hash, read_safetensors
from kerasllm.training.run.together import problem_of_any
from kerasllm.training.state.parts import PartedArrays, check_parts, checksum, part_entries
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
        problem, found = "", None
        try:
            found = _read(path)
        except _DAMAGED as error:
            # The message may quote the file, with invalid characters and at any length.
            problem = str(error).encode(errors="backslashreplace").decode()[:200] or type(error).__name__
        problem = problem_of_any(problem)
        if problem or found is None:
            print(f"{path} is damaged ({problem}): skipped", file=sys.stderr)
            continue
        restored, arrays, parted = found
        _assign(model, arrays, parted, path)
        return restored
    return None


def _read(path: Path) -> tuple[RestoredState, dict[str, np.ndarray], PartedArrays]:
    """Returns a checkpoint's state, its whole arrays, and those that are in parts.

    Raises:
        One of `_DAMAGED`: it is not what was written.
    """
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if checksum(state) != state["checksum"]:
        raise ValueError("state.json is not what was written")
    if file_hash(path / "state.safetensors") != state["sha256"]:
        raise ValueError("state.safetensors is not what was written")
    arrays = read_safetensors(path / "state.safetensors")
    if checkpoint_name(state["step"]) != path.name:
        raise ValueError("state.json is that of another step")
    check_random_states(state["random_states"])
    parts = state.get("parts", {})
    check_parts(path, parts, *processes.place())
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
    return restored, arrays, PartedArrays(path, sorted(parts))


def _without_position(name: str) -> str:
    """Returns the name of a callback's state without the position that kerasllm 0.1 put before it: `1-Evaluation`."""
    return re.sub(r"^\d+-", "", name)


def _assign(model: keras.Model, arrays: Mapping[str, np.ndarray], parted: PartedArrays, path: Path) -> None:
    if not model.built:
        raise ValueError("the model must be built before its state is restored")
    backend.divide(model)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables = dict(_named_variables(model))
    shapes = {name: array.shape for name, array in arrays.items()} | parted.shapes
    for name, variable in variables.items():
        if name not in shapes:
            raise InputError(f"{path} holds no {name} (this model's {variable.path}); the settings differ")
        if shapes[name] != backend.shape(variable):
            raise InputError(
                f"{path}: {name} has shape {shapes[name]}, this model's {variable.path} "
                f"{backend.shape(variable)}; the settings differ"
            )
    for name in shapes:
        if name not in variables and not name.startswith("callback/"):
            raise InputError(f"{path} holds {name}, which this model has not; the settings differ")
    for name, variable in variables.items():
        # The array is copied, since the backend may keep it and the file may be removed.
        array = parted[name] if name in parted else np.array(arrays[name])
        backend.assign(variable, array.astype(variable.dtype))


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
    return [_entry(*named) for named in _named_variables(model)]


def _entry(name: str, variable: Any) -> Entry:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return Entry(name, backend.shape(variable), dtype, partial(backend.whole, variable))


def divided_entries(
    model: keras.Model,
) -> tuple[list[Entry], list[tuple[Entry, dict[str, Any]]] | None]:
    """Returns the variables as `variable_entries` does, but of those that processes have divided, what this one holds.

    Returns:
        The entries of whole variables, which all processes must fetch and one writes; and those of parts with their
        places, see `parts`, or None if no variable is divided.
    """
    entries: list[Entry] = []
    parts: list[tuple[Entry, dict[str, Any]]] | None = None
    for name, variable in _named_variables(model):
        pieces = backend.pieces(variable)
        if pieces is None:
            entries.append(_entry(name, variable))
            continue
        dtype = keras.backend.standardize_dtype(variable.dtype)
        parts = (parts or []) + list(part_entries(name, backend.shape(variable), dtype, pieces))
    return entries, parts


def take_part(model: keras.Model) -> None:
    """Gathers the variables with the first process, which saves them while the others go on."""
    for entry in variable_entries(model):
        entry.fetch()


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
