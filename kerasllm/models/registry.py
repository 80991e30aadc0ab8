"""The registry of model families, and the functions that find a family by a class, a checkpoint or a KerasHub model.

A family is a folder beside this file. Its `__init__` registers it, and `kerasllm.models` imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasllm.checkpoints import model_card
from kerasllm.checkpoints.hub import resolve_directory
from kerasllm.checkpoints.keras_hub import (
    KerasHubTable,
    backbone_from_keras_hub,
    backbone_to_keras_hub,
    import_keras_hub,
)
from kerasllm.checkpoints.name_table import Format
from kerasllm.checkpoints.reading import CheckpointFiles, find_format, read_config
from kerasllm.checkpoints.weights import read_json
from kerasllm.errors import InputError
from kerasllm.models.layout import TRANSFORMER_LAYOUT


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        name: the family's name in messages, "BERT" for example.
        config_class: the frozen config dataclass, which identifies the family.
        sizes: the named sizes, each as the config fields that differ from the defaults.
        backbone: the model class without a task.
        tasks: the task model classes, each of which has a `backbone`.
        formats: the Hugging Face formats that can be read. A model is written in the first that can represent it.
        training_flops: a function of a model, the sequence length and the number of predicted positions that returns
            the FLOPs per token of a training step; see `LanguageModel.training_flops`.
        layout: where weights lie on several devices, see `backend.distribute`; the first rule that fits counts.
        keras_hub: the table of KerasHub's weight names; None if KerasHub has no such backbone.
    """

    name: str
    config_class: type
    sizes: Mapping[str, Mapping[str, Any]]
    backbone: type
    tasks: tuple[type, ...]
    formats: tuple[Format, ...]
    training_flops: Callable[[Any, int, int], float]
    layout: tuple[tuple[str, tuple[str | None, ...]], ...] = TRANSFORMER_LAYOUT
    keras_hub: KerasHubTable | None = None

    @property
    def classes(self) -> tuple[type, ...]:
        """The backbone class and the task model classes."""
        return (self.backbone, *self.tasks)

    def format_of(self, config: Any) -> Format:
        """Returns the format in which a model with this config is written."""
        return next(each for each in self.formats if each.represents(config))


FAMILIES: dict[str, Family] = {}
"""All families by name, in the order in which messages list them."""


def register(family: Family) -> Family:
    """Adds a family to the registry, and returns it."""
    FAMILIES[family.name] = family
    return family


def family_of(model_class: Any) -> Family:
    """Returns the family of a model class, or of a subclass of one.

    Raises:
        InputError: no registered family has the class's config.
    """
    config_class = getattr(model_class, "config_class", None)
    for family in FAMILIES.values():
        if family.config_class is config_class:
            return family
    raise InputError(f"{model_class.__name__} is of no family that is registered")


def _formats(config_class: type | tuple[type, ...] | None = None) -> Sequence[Format]:
    wanted = config_class if isinstance(config_class, tuple) else (config_class,)
    families = (each for each in FAMILIES.values() if None in wanted or each.config_class in wanted)
    return [stored for family in families for stored in family.formats]


def read_settings(
    directory: Path, config_class: type | tuple[type, ...] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Returns a model's config and the content of its config.json.

    Args:
        directory: the directory that holds config.json.
        config_class: the config class of the expected family, or several; None accepts any family.

    Raises:
        InputError: a setting is missing, config.json is of another family, or a setting is not supported here.
    """
    config, theirs, _ = read_config(directory, _formats(config_class))
    return config, theirs


def model_class_of(settings: Mapping[str, Any], directory: Path) -> type:
    """Returns the class of the model that config.json describes; its backbone if it names no task of ours.

    Args:
        settings: the content of config.json.
        directory: holds it, for messages.

    Raises:
        InputError: `architectures` is no list of names, or the model is of no known family.
    """
    path, names = directory / "config.json", settings.get("architectures")
    if names and not (isinstance(names, list) and isinstance(names[0], str)):
        raise InputError(f"{path}: architectures is {str(names)[:60]}, it must be a list of names")
    return find_format(dict(settings), path, _formats()).architecture(settings).model_class


def check_checkpoint(source: str | Path, config_class: type | tuple[type, ...] | None = None) -> Any:
    """Checks a checkpoint's config.json and the headers of its weight files, without reading the weights.

    Args:
        source: a directory or hub id, as `resolve_directory` takes it.
        config_class: the config class of the expected family, or several; None accepts any family.

    Returns:
        The model's config.

    Raises:
        InputError: there is no checkpoint, or it is damaged or of another family.
    """
    directory = resolve_directory(source)
    config, _, stored = read_config(directory, _formats(config_class))
    return CheckpointFiles(directory, stored, config).config


def write_model_card(directory: Path, sections: Mapping[str, str]) -> None:
    """Writes the README.md of a model directory, as its config.json describes the model.

    Args:
        directory: the directory that holds config.json.
        sections: further sections, Markdown texts by heading.

    Raises:
        InputError: there is no config.json of a known family, or the file cannot be written.
    """
    path = directory / "config.json"
    model_card.write_model_card(directory, find_format(read_json(path), path, _formats()), sections)


def from_keras_hub(backbone: Any) -> Any:
    """Returns a kerasllm backbone with the weights of a KerasHub backbone.

    Args:
        backbone: a `keras_hub.models.BertBackbone` or `GPT2Backbone`, or a task model that contains one. To put a
            kerasllm task model on the result: `GPTCausalLM(result.config, backbone=result)`.

    Raises:
        InputError: the model is of another class, or has an activation that is not supported here.
    """
    hub = import_keras_hub()
    backbone = getattr(backbone, "backbone", backbone)
    names = []
    for family in FAMILIES.values():
        if family.keras_hub is not None:
            if isinstance(backbone, getattr(hub.models, family.keras_hub.backbone)):
                return backbone_from_keras_hub(
                    backbone, family.keras_hub, family.backbone, family.config_class
                )
            names.append(family.keras_hub.backbone)
    raise InputError(f"{type(backbone).__name__} is no {' or '.join(names)} of KerasHub")


def to_keras_hub(model: Any) -> Any:
    """Returns a KerasHub backbone with the weights of a kerasllm model; see `backbone_to_keras_hub` for the limits.

    Args:
        model: a `BertBackbone` with a pooler, a `GPTBackbone` with GPT-2's architecture, or a task model that
            contains one; the head of a task model is left out.

    Returns:
        A `keras_hub.models.BertBackbone` or `GPT2Backbone`.

    Raises:
        InputError: KerasHub's classes cannot represent the model.
    """
    backbone = getattr(model, "backbone", model)
    names = []
    for family in FAMILIES.values():
        if family.keras_hub is not None:
            if isinstance(backbone, family.backbone):
                return backbone_to_keras_hub(backbone, family.keras_hub)
            names.append(f"no {family.name}")
    raise InputError(f"{type(model).__name__} is {' and '.join(names)}")
