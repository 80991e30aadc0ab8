"""Reading of models in Hugging Face's format: config.json and model.safetensors, never a pickle or a program."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm import backend
from kerasllm.checkpoints.hub import resolve_directory
from kerasllm.checkpoints.name_table import Entry, Format
from kerasllm.checkpoints.weights import WeightFiles, read_json
from kerasllm.errors import InputError, InputWarning, NewHeadWarning
from kerasllm.layers.initializers import drawing_later

GENERATION_FILE = "generation_config.json"
_AGAIN = "copy the model anew"
_MOST_NAMES = 12
_APART = f"the two do not belong together; {_AGAIN}"


def read_config(directory: Path, formats: Sequence[Format]) -> tuple[Any, dict[str, Any], Format]:
    """Returns our config, the content of config.json, and the format that it names.

    As in `transformers`, the end, begin and padding tokens of generation_config.json hold instead of config.json's.

    Args:
        directory: the directory that holds config.json.
        formats: the accepted formats.

    Raises:
        InputError: a setting is missing, the format is not accepted, or a setting is not supported here.
    """
    path = directory / "config.json"
    theirs = read_json(path)
    stored = find_format(theirs, path, formats)
    config = stored.read_config(theirs, str(path))
    generation = read_generation(directory)
    if generation is not None:
        config = stored.read_generation(config, generation, str(directory / GENERATION_FILE))
    return config, theirs, stored


def read_generation(directory: Path) -> dict[str, Any] | None:
    """Returns the content of generation_config.json in a directory, or None if there is none.

    Raises:
        InputError: the file is no JSON object.
    """
    path = directory / GENERATION_FILE
    return read_json(path) if path.is_file() else None


def find_format(theirs: dict[str, Any], path: Path, formats: Sequence[Format]) -> Format:
    """Returns the format that config.json's content names.

    Args:
        theirs: the content of config.json.
        path: the path of config.json, for the message.
        formats: the accepted formats.

    Raises:
        InputError: the content names none of these formats.
    """
    wanted = {each.model_type: each for each in formats}
    found = theirs.get("model_type")
    if not isinstance(found, str) or found not in wanted:
        public = [name for name in wanted if not name.startswith("kerasllm")]
        names = " or ".join(map(repr, public or wanted))
        raise InputError(f"{path}: model_type is {found!r}, only {names} can be read")
    return wanted[found]


class CheckpointFiles:
    """The weight files of a checkpoint, checked against the name table of its config.

    Only the headers are read for the check, before a model is built, so that absurd sizes allocate no memory.

    Args:
        directory: the directory that holds the weight files.
        stored: the format that config.json names.
        config: the config that was read from config.json. The attribute `config` equals it, but with
            `tie_embeddings=False` if the files hold a separate projection.

    Raises:
        InputError: a weight of the backbone is missing, or any weight differs in shape from config.json or is no float.
    """

    def __init__(self, directory: Path, stored: Format, config: Any) -> None:
        self.directory, self.stored, self.config = directory, stored, config
        self.files = WeightFiles(directory)
        self.shapes = {stored.modern(name): shape for name, shape in self.files.shapes.items()}
        self._names: dict[str, str] = {}
        for name in sorted(self.files.shapes):
            other = self._names.setdefault(stored.modern(name), name)
            if other != name:
                raise InputError(f"{directory}: holds both {other} and {name}, which are one; {_AGAIN}")
        if self._head_differs():
            self.config = config = dataclasses.replace(config, tie_embeddings=False)
        num_layers = getattr(config, "num_layers", 0)
        if num_layers > len(self._names):
            raise InputError(
                f"{directory}: config.json says {num_layers} layers, the weights hold "
                f"{len(self._names)} tensors: {_APART}"
            )
        self.entries = stored.entries(config)
        missing = [entry for entry in self.entries if self._is_body(entry) and None in self.find(entry)]
        if missing:
            absent = [name for entry in missing for name in entry.theirs if self._stored(name) is None]
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise InputError(
                f"{directory}: the weights hold no {absent[0]}{more}, which the model of config.json has: {_APART}"
            )
        for entry in self.entries:
            for index, tensor in enumerate(self.find(entry)):
                if tensor is not None:
                    self._check(tensor, entry.shape_of(index))

    def _check(self, name: str, expected: tuple[int, ...] | None) -> None:
        self.files.check_number(self._names[name])
        found = self.shapes[name]
        if expected is not None and found != expected:
            raise InputError(
                f"{self.directory}: {name} has shape {found}, config.json says {expected}: {_APART}"
            )

    def _head_differs(self) -> bool:
        """Returns whether the files hold a projection that differs from the embedding, though the config ties them.

        `transformers` computes with the stored projection in that case.
        """
        if self.stored.tied is None:
            return False
        head, table = map(self._stored, self.stored.tied)
        if (
            not (self.config.tie_embeddings and head and table)
            or not self.shapes[head]
            or self.shapes[head] != self.shapes[table]
        ):
            return False
        for name in (head, table):
            self.files.check_number(self._names[name])
        pairs = zip(self.parts(head), self.parts(table), strict=True)
        return any(not np.array_equal(*pair) for pair in pairs)

    def _is_body(self, entry: Entry) -> bool:
        """Returns whether a variable belongs to no head, so that a checkpoint without it is damaged."""
        return entry.ours.split("/")[0] not in self.stored.heads

    def _stored(self, name: str) -> str | None:
        """Returns a tensor's name in the files, with or without the format's prefix, or None if it is not there."""
        prefix = self.stored.prefix
        for candidate in (name, name.removeprefix(prefix), prefix + name):
            if candidate in self.shapes:
                return candidate
        return None

    def find(self, entry: Entry) -> list[str | None]:
        """Returns the current names of the tensors that an entry is made of, with None for each missing one."""
        found = [self._stored(name) for name in entry.theirs]
        if entry.alias_first and self._stored(entry.alias):
            found = [None]
        return [self._stored(entry.alias)] if found == [None] and entry.alias else found

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor by its current name, as float32."""
        return self.files.read(self._names[name])

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """Yields a tensor by its current name, as float32, some rows at a time."""
        return self.files.parts(self._names[name])

    def unused(self, used: set[str]) -> list[str]:
        """Returns the names of the layers in the files that were not used, without redundant tensors."""
        aliases = {self._stored(entry.alias) for entry in self.entries if entry.alias}
        aliases |= {
            self._stored(entry.theirs[0])
            for entry in self.entries
            if entry.alias and self._stored(entry.alias) in used
        }
        rest = [name for name in self.shapes if name not in used | aliases]
        rest = [name for name in rest if not self.stored.redundant(name, self.config)]
        return sorted({name.removeprefix(self.stored.prefix).rpartition(".")[0] or name for name in rest})


def read_model(
    model_class: type,
    formats: Sequence[Format],
    source: str | Path,
    *,
    revision: str | None = None,
    **settings: Any,
) -> Any:
    """Returns a model with the weights of a checkpoint; `LanguageModel.from_pretrained` calls this.

    Args:
        model_class: the model class, which is called with a config and settings and has `named_variables`.
        formats: the formats of its family.
        source: a directory or hub id, as `resolve_directory` takes it.
        revision: the branch, tag or commit of a hub id.
        settings: constructor arguments of the model class, and `dropout`, which overrides the checkpoint's.
    """
    directory = resolve_directory(source, revision)
    config, theirs, stored = read_config(directory, formats)
    if "dropout" in settings:
        others = [field.name for field in dataclasses.fields(config) if field.name.endswith("_dropout")]
        config = dataclasses.replace(config, dropout=settings.pop("dropout"), **dict.fromkeys(others))
    checkpoint = CheckpointFiles(directory, stored, config)
    asked = settings
    settings = stored.class_settings(
        model_class, theirs, str(directory / "config.json"), checkpoint.shapes, asked
    )
    with drawing_later() as undrawn:
        model = model_class(checkpoint.config, **settings)
    used: set[str] = set()
    variables = model.named_variables()
    missing = set(variables)
    for entry in checkpoint.entries:
        found = [name for name in checkpoint.find(entry) if name is not None]
        if entry.ours not in variables or len(found) < len(entry.theirs):
            continue
        variable = variables[entry.ours]
        shape = tuple(variable.shape)[::-1] if entry.transpose else tuple(variable.shape)
        if entry.shape is None and checkpoint.shapes[found[0]] != shape:
            if "num_classes" in asked or "num_classes" not in settings:
                continue  # the new head has another number of classes than the checkpoint
            raise InputError(
                f"{directory}: {found[0]} has shape {checkpoint.shapes[found[0]]}, config.json says {shape}: {_APART}, "
                "or give num_classes for a new head"
            )
        parts: Iterable[np.ndarray] = checkpoint.parts(found[0])
        if not entry.is_copy:
            parts = [entry.join([checkpoint.read(name) for name in found])]
        backend.fill_rows(variable, parts)
        missing.discard(entry.ours)
        used.update(found)
    for name in missing & undrawn.keys():
        variable = variables[name]
        variable.assign(undrawn[name](tuple(variable.shape), variable.dtype))
    stored.read_parts(model, directory)
    heads = {name.split("/")[0] for name in missing} & set(stored.heads)
    if hasattr(model, "generation_settings"):
        model.generation_settings = read_generation(directory)
    unread = getattr(model, "unread", ())
    _report(directory, sorted(heads), [name for name in checkpoint.unused(used) if name not in unread])
    return model


def _report(directory: Path, heads: list[str], unused: list[str]) -> None:
    """Warns of newly initialized heads, and of weights that were not used."""
    parts = [f"new, with initial values: {', '.join(heads)}"] if heads else []
    if unused:
        parts.append(f"not used of the checkpoint: {_first(unused)}")
    message = f"{directory}: {'; '.join(parts)}"
    if parts:
        warnings.warn(NewHeadWarning(message, tuple(heads)) if heads else InputWarning(message), stacklevel=4)


def _first(names: list[str]) -> str:
    shown = [name if name.isprintable() else repr(name) for name in names[:_MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")
