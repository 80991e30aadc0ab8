"""The table of model families: what a family is made of, and how one is found by a class or by a checkpoint.

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


@dataclass(frozen=True)
class Family:
    """One family of models.

    Args:
        name: as people call it, "BERT".
        config_class: the frozen dataclass of its shape; no other family has the same.
        sizes: the named sizes, as changes of the config's defaults.
        backbone: the class without a task.
        tasks: the classes with one, each of which has a `backbone`.
        formats: Hugging Face's formats that it is read from. A model is written in the first that represents it.
        training_flops: returns the arithmetic of a training step for each token, of a model, the length of its
            sequences and the positions whose token is predicted; see `LanguageModel.training_flops`.
        keras_hub: KerasHub's names of the backbone's weights; None where KerasHub has no such backbone.
    """

    name: str
    config_class: type
    sizes: Mapping[str, Mapping[str, Any]]
    backbone: type
    tasks: tuple[type, ...]
    formats: tuple[Format, ...]
    training_flops: Callable[[Any, int, int], float]
    keras_hub: KerasHubTable | None = None

    @property
    def classes(self) -> tuple[type, ...]:
        """All classes of models."""
        return (self.backbone, *self.tasks)

    def format_of(self, config: Any) -> Format:
        """Returns the format in which a model of that config is written."""
        return next(each for each in self.formats if each.represents(config))


FAMILIES: dict[str, Family] = {}
"""All families by name, in the order in which messages name them."""


def register(family: Family) -> Family:
    """Adds a family to the table, and returns it."""
    FAMILIES[family.name] = family
    return family


def family_of(model_class: Any) -> Family:
    """Returns the family of a model class, or of a subclass of one.

    Raises:
        InputError: the class has the config of no family.
    """
    config_class = getattr(model_class, "config_class", None)
    for family in FAMILIES.values():
        if family.config_class is config_class:
            return family
    raise InputError(f"{model_class.__name__} is of no family that is registered")


def _formats(config_class: type | None = None) -> Sequence[Format]:
    families = (each for each in FAMILIES.values() if config_class in (None, each.config_class))
    return [stored for family in families for stored in family.formats]


def read_settings(directory: Path, config_class: type | None = None) -> tuple[Any, dict[str, Any]]:
    """Returns our config and the whole of config.json.

    Args:
        directory: holds config.json.
        config_class: of the family that is wanted; any family where None.

    Raises:
        InputError: a setting is missing, config.json is of another family, or says what the model here cannot do.
    """
    config, theirs, _ = read_config(directory, _formats(config_class))
    return config, theirs


def check_checkpoint(source: str | Path, config_class: type | None = None) -> Any:
    """Checks a checkpoint without reading weights: its settings, and what its files declare.

    Args:
        source: as in `resolve_directory`.
        config_class: of the family that is wanted; any family where None.

    Returns:
        Our config.

    Raises:
        InputError: there is none, or it is damaged or of another family.
    """
    directory = resolve_directory(source)
    config, _, stored = read_config(directory, _formats(config_class))
    return CheckpointFiles(directory, stored, config).config


def write_model_card(directory: Path, sections: Mapping[str, str]) -> None:
    """Writes README.md of a model directory, by its config.json.

    Args:
        directory: holds config.json.
        sections: texts by their headings, in Markdown.

    Raises:
        InputError: there is no config.json of a known family, or the file cannot be written.
    """
    path = directory / "config.json"
    model_card.write_model_card(directory, find_format(read_json(path), path, _formats()), sections)


def from_keras_hub(backbone: Any) -> Any:
    """Returns our backbone with the weights of KerasHub's.

    Args:
        backbone: a `keras_hub.models.BertBackbone` or `GPT2Backbone`, or a task model upon one. To go on with a
            task of ours: `GPTCausalLM(found.config, backbone=found)`.

    Raises:
        InputError: another kind of model, or an activation that ours does not have.
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
    """Returns KerasHub's backbone with the weights of ours; see `backbone_to_keras_hub` for what it keeps.

    Args:
        model: a `BertBackbone` with a pooler or a `GPTBackbone` of GPT-2's shape, or a task model upon one, whose
            backbone is taken.

    Returns:
        A `keras_hub.models.BertBackbone` or `GPT2Backbone`.

    Raises:
        InputError: the shape is none that KerasHub's classes have.
    """
    backbone = getattr(model, "backbone", model)
    names = []
    for family in FAMILIES.values():
        if family.keras_hub is not None:
            if isinstance(backbone, family.backbone):
                return backbone_to_keras_hub(backbone, family.keras_hub)
            names.append(f"no {family.name}")
    raise InputError(f"{type(model).__name__} is {' and '.join(names)}")
