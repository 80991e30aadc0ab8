"""What a name table is made of: one entry a variable, used for reading and for writing alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One variable of ours and the tensors it is made of.

    Args:
        ours: `layer/weight`, as in `LanguageModel.named_variables`.
        theirs: names of tensors, side by side along our last axis.
        transpose: whether theirs are stored as (outputs, inputs), ours as (inputs, outputs).
        widths: of theirs along our last axis; equal shares where None.
    """

    ours: str
    theirs: tuple[str, ...]
    transpose: bool = False
    widths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Format:
    """How one kind of model is stored.

    Args:
        model_type: as config.json has it.
        prefix: that the task models put before the backbone's names; a file may have it or not.
        entries: from our config to the table, backbone and heads, without the prefix.
        headed: beginnings of the names of heads, which never have the prefix.
        shapes: from our config to the shapes of some tensors, by which absurd sizes are refused.
        read_config: from config.json's content and its name to our config.
        write_config: from a model and its label names to config.json's content.
        class_settings: from class, config.json and all names of tensors to settings of the task.
        redundant: whether a tensor repeats another one or is no weight.
        modern: from an outdated name of a tensor to the one in use.
    """

    model_type: str
    prefix: str
    entries: Callable[[Any], list[Entry]]
    headed: tuple[str, ...]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    read_config: Callable[[Mapping[str, Any], str], Any]
    write_config: Callable[[Any, tuple[str, ...] | None], dict[str, Any]]
    class_settings: Callable[[type, Mapping[str, Any], list[str]], dict[str, Any]]
    redundant: Callable[[str], bool]
    modern: Callable[[str], str] = str

    def qualified(self, name: str, is_backbone: bool) -> str:
        """The name of a tensor as this format writes it."""
        return name if is_backbone or name.startswith(self.headed) else self.prefix + name


ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
}
"""Our activation, theirs; the first of theirs is written."""


def norm(ours: str, theirs: str, *, bias: bool = True) -> list[Entry]:
    """The entries of a layer norm, or of one without bias."""
    scale = Entry(f"{ours}scale", (f"{theirs}.weight",))
    return [scale, Entry(f"{ours}bias", (f"{theirs}.bias",))] if bias else [scale]
