"""Hugging Face's format in both directions: config.json and model.safetensors, no pickle."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints import gpt_format
from kerasllm.checkpoints.bert_format import BERT
from kerasllm.checkpoints.name_table import Entry, Format
from kerasllm.checkpoints.weights import WeightFiles, read_json, write_json, write_weights
from kerasllm.errors import InputError, InputWarning
from kerasllm.models.bert import (
    BertBackbone,
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.bert_config import BertConfig
from kerasllm.models.gpt import GPTBackbone, GPTCausalLM
from kerasllm.models.language_model import LanguageModel

FORMATS = {each.model_type: each for each in (BERT, gpt_format.GPT2, gpt_format.LLAMA, gpt_format.OWN)}
_STORED = (
    *(BertBackbone, BertPretraining, BertMaskedLM, BertClassifier, BertRegressor),
    *(GPTBackbone, GPTCausalLM),
)
_BACKBONES = (BertBackbone, GPTBackbone)


def resolve_directory(source: str | Path) -> Path:
    """A model directory, a run directory's `model/`, or a downloaded hub id.

    Raises:
        InputError: neither is there, or the hub does not answer.
    """
    path = Path(source)
    if (path / "config.json").is_file():
        return path
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if path.exists():
        raise InputError(
            f"{path}: holds no config.json and no model/config.json: it is no model and no finished run"
        )
    name = str(source)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{path}: there is no such directory")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # the hub's client raises many kinds, none of them ours to mend
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: no such directory, and the hub gave no such model ({reason})") from error


def read_settings(directory: Path, config_class: type | None = None) -> tuple[Any, dict[str, Any]]:
    """Our config and the whole of config.json.

    Args:
        directory: holds config.json.
        config_class: the family that is wanted; any where None.

    Raises:
        InputError: a key is missing, it is of another family, or says what the model here cannot do.
    """
    path = directory / "config.json"
    theirs = read_json(path)
    config = _format(theirs, path, config_class).read_config(theirs, str(path))
    return config, theirs


def _format(theirs: dict[str, Any], path: Path, config_class: type | None) -> Format:
    wanted = {
        name: each
        for name, each in FORMATS.items()
        if config_class is None or (each is BERT) == (config_class is BertConfig)
    }
    found = theirs.get("model_type")
    if not isinstance(found, str) or found not in wanted:
        names = " or ".join(map(repr, (name for name in wanted if not name.startswith("kerasllm"))))
        raise InputError(f"{path}: model_type is {found!r}, only {names} can be read")
    return wanted[found]


def check_checkpoint(source: str | Path, config_class: type | None = None) -> Any:
    """Looks a checkpoint over without reading weights: its settings, and the sizes that its files declare.

    Args:
        source: as in `resolve_directory`.
        config_class: the family that is wanted; any where None.

    Returns:
        Our config.

    Raises:
        InputError: there is none, or it is damaged or of another family.
    """
    directory = resolve_directory(source)
    config, theirs = read_settings(directory, config_class)
    stored = FORMATS[theirs["model_type"]]
    files = WeightFiles(directory)
    _check_sizes(directory, stored, files, {stored.modern(name): name for name in files.names()}, config)
    return config


def _entries_of(model: LanguageModel, stored: Format) -> list[Entry]:
    """The name table of a model: the task models put a prefix before the backbone's names."""
    is_backbone = isinstance(model, _BACKBONES)
    variables = model.named_variables()
    return [
        dataclasses.replace(entry, theirs=tuple(stored.qualified(name, is_backbone) for name in entry.theirs))
        for entry in stored.entries(model.config)
        if entry.ours in variables
    ]


def read_model(cls: type[LanguageModel], source: str | Path, **settings: Any) -> LanguageModel:
    """`cls.from_pretrained`: see there."""
    directory = resolve_directory(source)
    config, theirs = read_settings(directory, cls.config_class)
    stored = FORMATS[theirs["model_type"]]
    if "dropout" in settings:
        rate = settings.pop("dropout")
        config = dataclasses.replace(config, dropout=rate, attention_dropout=rate)
    files = WeightFiles(directory)
    names = {stored.modern(name): name for name in files.names()}
    settings = stored.class_settings(cls, theirs, list(names)) | settings
    _check_sizes(directory, stored, files, names, config)
    model = cls(config, **settings)
    missing: list[str] = []
    used: set[str] = set()
    variables = model.named_variables()
    for entry in _entries_of(model, stored):
        found = [_find(name, names, stored) for name in entry.theirs]
        if None in found:
            missing.append(entry.ours)
            continue
        used.update(name for name in found if name is not None)
        parts = [files.read(names[name]) for name in found if name is not None]
        value = np.concatenate([part.T if entry.transpose else part for part in parts], axis=-1)
        variable = variables[entry.ours]
        if value.shape != tuple(variable.shape):
            if entry.ours.startswith("classifier/"):
                missing.append(entry.ours)
                continue
            raise InputError(
                f"{directory}: {entry.theirs[0]} has shape {value.shape}, config.json says {tuple(variable.shape)}: "
                "the two do not belong together; copy the model anew"
            )
        variable.assign(value)
    _report(directory, stored, missing, sorted(set(names) - used))
    return model


def _find(name: str, names: dict[str, str], stored: Format) -> str | None:
    """The stored name: with the format's prefix or without, whichever the file has."""
    for candidate in (name, name.removeprefix(stored.prefix), stored.prefix + name):
        if candidate in names:
            return candidate
    return None


def _check_sizes(
    directory: Path, stored: Format, files: WeightFiles, names: dict[str, str], config: Any
) -> None:
    """Refuses absurd sizes before memory is taken: the weights must be as large as the config says."""
    for name, shape in stored.shapes(config).items():
        found = _find(name, names, stored)
        if found is None:
            raise InputError(
                f"{directory}: the weights hold no {name}, which the model of config.json has: "
                "the two do not belong together; copy the model anew"
            )
        if files.shape(names[found]) != shape:
            raise InputError(
                f"{directory}: {found} has shape {files.shape(names[found])}, config.json says {shape}: "
                "the two do not belong together; copy the model anew"
            )


def _report(directory: Path, stored: Format, missing: list[str], surplus: list[str]) -> None:
    """Warns of weights that keep their initial values; those of the body are an error."""
    body = [name for name in missing if name.startswith(("embeddings/", "block_", "final_norm/"))]
    if body:
        raise InputError(
            f"{directory}: the weights lack {', '.join(body[:4])}{' …' if len(body) > 4 else ''}"
        )
    heads = sorted({name.split("/")[0] for name in missing})
    surplus = [name for name in surplus if not stored.redundant(name)]
    if heads:
        unused = sorted({name.removeprefix(stored.prefix).rsplit(".", 1)[0] for name in surplus})
        also = f"; not used of the checkpoint: {', '.join(unused)}" if unused else ""
        notice = f"{directory}: new, with initial values: {', '.join(heads)}{also}"
        warnings.warn(notice, InputWarning, stacklevel=4)


def write_model(
    model: LanguageModel, directory: str | Path, *, label_names: tuple[str, ...] | None = None
) -> None:
    """`model.save_pretrained`: see there; `label_names` become `id2label`."""
    directory = Path(directory)
    if type(model) not in _STORED:
        raise InputError(f"{type(model).__name__} has no counterpart in Hugging Face's format")
    gpt = isinstance(model, GPTBackbone | GPTCausalLM)
    stored = gpt_format.format_of(model.config) if gpt else BERT
    config = stored.write_config(model, label_names)
    tensors: dict[str, np.ndarray] = {}
    for entry in _entries_of(model, stored):
        value = np.asarray(model.merged(entry.ours), dtype=np.float32)
        shares: Any = len(entry.theirs) if entry.widths is None else np.cumsum(entry.widths)[:-1]
        for name, part in zip(entry.theirs, np.split(value, shares, axis=-1), strict=True):
            tensors[name] = part.T if entry.transpose else part
    write_weights(directory, tensors)
    write_json(directory / "config.json", config)
    if gpt and model.config.end_token_id is not None:
        end = {name: model.config.end_token_id for name in ("bos_token_id", "eos_token_id")}
        write_json(directory / "generation_config.json", {"_from_model_config": True, **end})
