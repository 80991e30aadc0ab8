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
class Format:
    """How one kind of model is stored.

    Args:
        model_type: as config.json has it.
        prefix: that the task models put before the backbone's names; a file may have it or not.
        entries: from our config to the table, backbone and heads, without the prefix.
        headed: beginnings of the names of heads, which never have the prefix.
        read_config: from config.json's content and its name to our config.
        write_config: from a model to config.json's content.
        class_settings: from class, config.json, its name, the tensors' shapes by name, and the settings asked
            for, to all settings of the task.
        redundant: whether a tensor, by its name, repeats another one of a model of our config or is no weight.
        tied: the projection to the vocabulary, and the embedding that it is where both are tied.
        modern: from an outdated name of a tensor to the one in use.
    """

    model_type: str
    prefix: str
    entries: Callable[[Any], list[Entry]]
    headed: tuple[str, ...]
    read_config: Callable[[Mapping[str, Any], str], Any]
    write_config: Callable[[Any], dict[str, Any]]
    class_settings: Callable[
        [type, Mapping[str, Any], str, Mapping[str, tuple[int, ...]], dict[str, Any]], dict[str, Any]
    ]
    redundant: Callable[[str, Any], bool]
    tied: tuple[str, str] = ("", "")
    modern: Callable[[str], str] = str

    def qualified(self, name: str, is_backbone: bool) -> str:
        """The name of a tensor as this format writes it."""
        return name if not name or is_backbone or name.startswith(self.headed) else self.prefix + name


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
