"""What a name table is made of: one entry a variable, used for reading and for writing alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One variable of ours and the tensors it is made of.

    Args:
        ours: `layer/weight`, as in `LanguageModel.named_variables`.
        theirs: names of tensors, side by side along our last axis.
        shape: of ours, known before the model is made; None where the task decides it.
        transpose: whether theirs are stored as (outputs, inputs), ours as (inputs, outputs).
        widths: of theirs along our last axis; equal shares where None.
        alias: a second name of the one tensor, read where the first is missing.
        alias_first: whether the second name is rather read than the first.
        twice: whether it is written under both names.
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
        """Whether ours is the one tensor of theirs as it stands."""
        return len(self.theirs) == 1 and not self.transpose

    def split(self, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Our variable → names and values of theirs."""
        shares: Any = len(self.theirs) if self.widths is None else np.cumsum(self.widths)[:-1]
        for name, part in zip(self.theirs, np.split(value, shares, axis=-1), strict=True):
            yield name, part.T if self.transpose else part
        if self.twice:
            yield self.alias, value

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """The values of theirs → our variable."""
        turned = [part.T if self.transpose else part for part in parts]
        return turned[0] if len(turned) == 1 else np.concatenate(turned, axis=-1)

    def shape_of(self, index: int) -> tuple[int, ...] | None:
        """The shape of the tensor `theirs[index]`."""
        if self.shape is None:
            return None
        width = self.shape[-1] // len(self.theirs) if self.widths is None else self.widths[index]
        shape = (*self.shape[:-1], width)
        return shape[::-1] if self.transpose else shape


@dataclass(frozen=True)
class Architecture:
    """One model class of ours and the name that config.json has for it.

    Args:
        name: as in config.json's `architectures`.
        model_class: our class.
        auto_class: the class of `transformers` that loads it; None where none does.
        hub_task: the hub's name of the task; None where it has none.
        problem_type: config.json's `problem_type` of this class, where several classes share the name.
    """

    name: str
    model_class: type
    auto_class: str | None
    hub_task: str | None
    problem_type: str | None = None


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
    """How one kind of model is stored.

    A config has `tie_embeddings` where the format has `tied`. Of `num_layers`, where it has them, no more are read than
    the files hold tensors.

    Args:
        model_type: as config.json has it.
        architectures: the classes that are stored in this format. The first row of a class is the name under which
            it is written.
        entries: returns the name table of a config, backbone and heads, without the prefix.
        read_config: returns our config from config.json's content and its path.
        write_config: returns config.json's content for a model.
        prefix: what the task models put before the backbone's names; a file may have it or not.
        headed: beginnings of the names of heads, which never have the prefix.
        heads: our layers that a checkpoint may lack, and which have initial values then.
        class_settings: returns all settings of a task, from its class, config.json's content and path, the shapes of
            the tensors by name, and the settings asked for.
        redundant: whether a tensor, by its name, repeats another one of a model of our config or is no weight.
        tied: the projection to the vocabulary, and the embedding that it is where both are tied.
        modern: returns the name in use for an outdated name of a tensor.
        represents: whether a model of that config can be written in this format.
        write_generation: returns the settings of generation_config.json for a model; None for a model that does not
            generate.
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
    write_generation: Callable[[Any], dict[str, Any] | None] = lambda model: None

    def qualified(self, name: str, is_backbone: bool) -> str:
        """Returns the name of a tensor as this format writes it."""
        return name if not name or is_backbone or name.startswith(self.headed) else self.prefix + name

    def architecture_of(self, model_class: type) -> str:
        """Returns the name under which a class is written."""
        return next(row.name for row in self.architectures if row.model_class is model_class)

    def architecture(self, theirs: Mapping[str, Any]) -> Architecture:
        """Returns the row that config.json's content names; the first one where it names none."""
        name, problem = (theirs.get("architectures") or [None])[0], theirs.get("problem_type")
        named = [row for row in self.architectures if row.name == name] or list(self.architectures)
        return next((row for row in named if problem and row.problem_type == problem), named[0])


ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
}
"""Our activation, theirs; the first of theirs is written."""


def norm(ours: str, theirs: str, width: int, *, bias: bool = True) -> list[Entry]:
    """The entries of a layer norm, or of one without bias."""
    scale = Entry(f"{ours}scale", (f"{theirs}.weight",), (width,))
    return [scale, Entry(f"{ours}bias", (f"{theirs}.bias",), (width,))] if bias else [scale]
