"""Name tables, which map our variables to the tensors of a checkpoint for reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One of our variables and the tensors that it is made of.

    Args:
        ours: the name of our variable, `layer/weight` as in `LanguageModel.named_variables`.
        theirs: the names of the tensors, which are concatenated along the last axis of our variable.
        shape: the shape of our variable; None if it depends on the task, as the number of classes does.
        transpose: whether the tensors are stored as (outputs, inputs), and our variable as (inputs, outputs).
        widths: the tensors' sizes along the last axis of our variable; None for equal sizes.
        alias: a second name of a single tensor, which is read if the first name is missing.
        alias_first: whether the second name is preferred to the first when both are there.
        twice: whether the tensor is written under both names.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    transpose: bool = False
    widths: tuple[int, ...] | None = None
    alias: str = ""
    alias_first: bool = False
    twice: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether our variable equals a single tensor, without transposition."""
        return len(self.theirs) == 1 and not self.transpose

    def split(self, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the names and values of the tensors for the value of our variable."""
        shares: Any = len(self.theirs) if self.widths is None else np.cumsum(self.widths)[:-1]
        for name, part in zip(self.theirs, np.split(value, shares, axis=-1), strict=True):
            yield name, part.T if self.transpose else part
        if self.twice:
            yield self.alias, value

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Returns the value of our variable for the values of the tensors."""
        turned = [part.T if self.transpose else part for part in parts]
        return turned[0] if len(turned) == 1 else np.concatenate(turned, axis=-1)

    def shape_of(self, index: int) -> tuple[int, ...] | None:
        """Returns the shape of the tensor `theirs[index]`, or None if it depends on the task."""
        if self.shape is None:
            return None
        width = self.shape[-1] // len(self.theirs) if self.widths is None else self.widths[index]
        shape = (*self.shape[:-1], width)
        return shape[::-1] if self.transpose else shape


@dataclass(frozen=True)
class Architecture:
    """One of our model classes and its name in config.json.

    Args:
        name: the name in config.json's `architectures`.
        model_class: our model class.
        auto_class: the `transformers` class that loads it, or None.
        hub_task: the hub's name of the task, or None.
        problem_type: the `problem_type` in config.json that selects this class, if several classes share the name.
        key: a key of config.json that selects this class, likewise.
    """

    name: str
    model_class: type
    auto_class: str | None
    hub_task: str | None
    problem_type: str | None = None
    key: str | None = None


def _as_asked(
    model_class: type,
    theirs: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, tuple[int, ...]],
    asked: dict[str, Any],
) -> dict[str, Any]:
    return asked


@dataclass(frozen=True)
class Format:
    """A checkpoint format: the layout of config.json and the names of the tensors for one `model_type`.

    A config must have `tie_embeddings` if the format has `tied`. If a config has `num_layers`, it is refused when it
    exceeds the number of tensors in the files.

    Args:
        model_type: the `model_type` in config.json.
        architectures: the model classes that are stored in this format. A class that occurs several times is written
            under its first name.
        entries: a function that returns the name table of a config, with backbone and heads, without the prefix.
        read_config: a function that returns our config from the content and path of config.json.
        write_config: a function that returns the content of config.json for a model.
        prefix: the prefix of the backbone's names in task models; files are read with and without it.
        headed: the beginnings of the heads' names, which never have the prefix.
        heads: our layers that a checkpoint may lack, which are then newly initialized.
        class_settings: a function that returns the constructor arguments of a task model, from its class, the content
            and path of config.json, the shapes of the tensors by name, and the arguments that the caller gave.
        redundant: a function of a tensor's name and our config that returns whether the tensor repeats another one or
            is no weight.
        tied: the names of the vocabulary projection and of the embedding that it may be tied to.
        modern: a function that returns the current name of a tensor for an outdated one.
        represents: a function that returns whether a model with a config can be written in this format.
        read_generation: a function that returns our config with the tokens that generation_config.json names, from our
            config and the content and path of that file.
        write_generation: a function that returns the content of generation_config.json for a model, or None for a
            model that does not generate text.
        write_parts: a function of a model and a directory that writes what only some classes keep beside the weights.
        read_parts: a function of a model and a directory that reads these parts into the model.
    """

    model_type: str
    architectures: tuple[Architecture, ...]
    entries: Callable[[Any], list[Entry]]
    read_config: Callable[[Mapping[str, Any], str], Any]
    write_config: Callable[[Any], dict[str, Any]]
    prefix: str = ""
    headed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    class_settings: Callable[
        [type, Mapping[str, Any], str, Mapping[str, tuple[int, ...]], dict[str, Any]], dict[str, Any]
    ] = _as_asked
    redundant: Callable[[str, Any], bool] = lambda name, config: False
    tied: tuple[str, str] | None = None
    modern: Callable[[str], str] = str
    represents: Callable[[Any], bool] = lambda config: True
    read_generation: Callable[[Any, Mapping[str, Any], str], Any] = lambda config, theirs, path: config
    write_generation: Callable[[Any], dict[str, Any] | None] = lambda model: None
    write_parts: Callable[[Any, Path], None] = lambda model, directory: None
    read_parts: Callable[[Any, Path], None] = lambda model, directory: None

    def qualified(self, name: str, is_backbone: bool) -> str:
        """Returns the name of a tensor as this format writes it, with the prefix if it needs one."""
        return name if not name or is_backbone or name.startswith(self.headed) else self.prefix + name

    def architecture_of(self, model_class: type) -> str:
        """Returns the name under which a class is written."""
        return next(row.name for row in self.architectures if row.model_class is model_class)

    def architecture(self, theirs: Mapping[str, Any]) -> Architecture:
        """Returns the architecture that config.json's content names, or the first one if it names none.

        As in `transformers`, a single label without a `problem_type` means a regression.
        """
        name, labels = (theirs.get("architectures") or [None])[0], theirs.get("id2label")
        count = len(labels) if isinstance(labels, dict) else theirs.get("num_labels")
        problem = theirs.get("problem_type") or ("regression" if count == 1 else None)
        named = [row for row in self.architectures if row.name == name] or list(self.architectures)
        keyed = [row for row in named if row.key and row.key in theirs]
        if keyed:
            return keyed[0]
        return next((row for row in named if problem and row.problem_type == problem), named[0])


ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
}
"""Hugging Face's names for each of our activations; the first one is written."""


def norm(ours: str, theirs: str, width: int, *, bias: bool = True) -> list[Entry]:
    """Returns the entries of a layer norm, with or without bias."""
    scale = Entry(f"{ours}scale", (f"{theirs}.weight",), (width,))
    return [scale, Entry(f"{ours}bias", (f"{theirs}.bias",), (width,))] if bias else [scale]
