"""Hugging Face's format in both directions: config.json and model.safetensors, no pickle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints import bert_names
from kerasllm.checkpoints.bert_names import ACTIVATIONS, CONFIG_NAMES, Entry
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
from kerasllm.models.language_model import LanguageModel

ARCHITECTURES = {
    BertBackbone: "BertModel",
    BertPretraining: "BertForPreTraining",
    BertMaskedLM: "BertForMaskedLM",
    BertClassifier: "BertForSequenceClassification",
    BertRegressor: "BertForSequenceClassification",
}


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


def read_settings(directory: Path) -> tuple[BertConfig, dict[str, Any]]:
    """Our config and the whole of config.json.

    Raises:
        InputError: a key is missing, or says what this BERT cannot do.
    """
    path = directory / "config.json"
    theirs = read_json(path)
    if theirs.get("model_type") != "bert":
        raise InputError(f"{path}: model_type is {theirs.get('model_type')!r}, only 'bert' can be read")
    for name, only in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if theirs.get(name, only) != only:
            raise InputError(f"{path}: {name} is {theirs[name]!r}, only {only!r} can be represented")
    if not isinstance(theirs.get("id2label") or {}, dict):
        raise InputError(f"{path}: id2label is {theirs['id2label']!r}, it must be an object of ids and names")
    missing = [name for name in ("vocab_size", "hidden_size", "num_hidden_layers") if name not in theirs]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; copy the model anew")
    settings = {ours: theirs[name] for ours, name in CONFIG_NAMES.items() if theirs.get(name) is not None}
    activation = settings.get("activation", "gelu")
    known = [ours for ours, names in ACTIVATIONS.items() if activation in names]
    if not known:
        raise InputError(f"{path}: hidden_act is {activation!r}, known are {', '.join(ACTIVATIONS)}")
    try:
        return BertConfig(**settings | {"activation": known[0]}), theirs
    except ValueError as error:  # begins with our name of the setting, the file has theirs
        ours, _, fault = str(error).partition(" ")
        raise InputError(f"{path}: {CONFIG_NAMES.get(ours, ours)} {fault}") from error


def check_checkpoint(source: str | Path) -> BertConfig:
    """Looks a checkpoint over without reading weights: its settings, and the sizes that its files declare.

    Args:
        source: as in `resolve_directory`.

    Raises:
        InputError: there is none, or it is damaged or no BERT.
    """
    directory = resolve_directory(source)
    config, _ = read_settings(directory)
    files = WeightFiles(directory)
    _check_sizes(directory, files, {_modern(name): name for name in files.names()}, config)
    return config


def entries_of(model: LanguageModel) -> list[Entry]:
    """The name table of a model: the task models put `bert.` before the backbone's names."""
    prefix = "" if isinstance(model, BertBackbone) else "bert."
    backbone = [
        Entry(entry.ours, tuple(prefix + name for name in entry.theirs), entry.transpose)
        for entry in bert_names.backbone_entries(model.config.num_layers)
    ]
    variables = model.named_variables()
    return [entry for entry in backbone + bert_names.HEAD_ENTRIES if entry.ours in variables]


def read_model(cls: type[LanguageModel], source: str | Path, **settings: Any) -> LanguageModel:
    """`cls.from_pretrained`: see there."""
    directory = resolve_directory(source)
    config, theirs = read_settings(directory)
    if "dropout" in settings:
        rate = settings.pop("dropout")
        config = BertConfig(**vars(config) | {"dropout": rate, "attention_dropout": rate})
    files = WeightFiles(directory)
    names = {_modern(name): name for name in files.names()}
    if cls is BertClassifier and "num_classes" not in settings:
        labels = theirs.get("id2label") or {}
        settings["num_classes"] = len(labels) if labels else theirs.get("num_labels", 2)
    if cls is BertBackbone and "pooler" not in settings:
        settings["pooler"] = any(name.endswith("pooler.dense.weight") for name in names)
    _check_sizes(directory, files, names, config)
    model = cls(config, **settings)
    missing: list[str] = []
    used: set[str] = set()
    variables = model.named_variables()
    for entry in entries_of(model):
        found = [_find(name, names) for name in entry.theirs]
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
    _report(directory, missing, sorted(set(names) - used))
    return model


def _modern(name: str) -> str:
    """TensorFlow's old names of layer normalisation's weights."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _find(name: str, names: dict[str, str]) -> str | None:
    """The stored name: with the prefix `bert.` or without, whichever the file has."""
    for candidate in (name, name.removeprefix("bert."), f"bert.{name}"):
        if candidate in names:
            return candidate
    return None


def _check_sizes(directory: Path, files: WeightFiles, names: dict[str, str], config: BertConfig) -> None:
    """Refuses absurd sizes before memory is taken: the weights must be as large as the config says."""
    embeddings, layer = "embeddings.{}_embeddings.weight", f"encoder.layer.{config.num_layers - 1}."
    expected = {
        embeddings.format("word"): (config.vocabulary_size, config.hidden_dim),
        embeddings.format("position"): (config.max_sequence_length, config.hidden_dim),
        embeddings.format("token_type"): (config.num_segments, config.hidden_dim),
        f"{layer}intermediate.dense.weight": (config.intermediate_dim, config.hidden_dim),
    }
    for name, shape in expected.items():
        found = _find(name, names)
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


def _report(directory: Path, missing: list[str], surplus: list[str]) -> None:
    """Warns of weights that keep their initial values; those of the body are an error."""
    body = [name for name in missing if name.startswith(("embeddings/", "block_"))]
    if body:
        raise InputError(
            f"{directory}: the weights lack {', '.join(body[:4])}{' …' if len(body) > 4 else ''}"
        )
    heads = sorted({name.split("/")[0] for name in missing})
    surplus = [name for name in surplus if not name.removeprefix("bert.").startswith(bert_names.REDUNDANT)]
    if heads:
        unused = sorted({name.removeprefix("bert.").rsplit(".", 1)[0] for name in surplus})
        also = f"; not used of the checkpoint: {', '.join(unused)}" if unused else ""
        notice = f"{directory}: new, with initial values: {', '.join(heads)}{also}"
        warnings.warn(notice, InputWarning, stacklevel=4)


def write_model(
    model: LanguageModel, directory: str | Path, *, label_names: tuple[str, ...] | None = None
) -> None:
    """`model.save_pretrained`: see there; `label_names` become `id2label`."""
    directory = Path(directory)
    if type(model) not in ARCHITECTURES:
        raise InputError(f"{type(model).__name__} has no counterpart in Hugging Face's format")
    config: dict[str, Any] = {"architectures": [ARCHITECTURES[type(model)]], "model_type": "bert"}
    config |= {name: getattr(model.config, ours) for ours, name in CONFIG_NAMES.items()}
    if model.config.activation not in ACTIVATIONS:
        raise InputError(f"activation {model.config.activation!r} has no name in Hugging Face's format")
    config["hidden_act"] = ACTIVATIONS[model.config.activation][0]
    if isinstance(model, BertClassifier):
        label_names = label_names or tuple(f"LABEL_{index}" for index in range(model.num_classes))
        config["problem_type"] = "single_label_classification"
    if isinstance(model, BertRegressor):
        label_names, config["problem_type"] = ("LABEL_0",), "regression"
    if label_names:
        config["id2label"] = {str(index): name for index, name in enumerate(label_names)}
        config["label2id"] = {name: index for index, name in enumerate(label_names)}
    config |= {"position_embedding_type": "absolute", "tie_word_embeddings": True, "dtype": "float32"}
    variables = model.named_variables()
    tensors: dict[str, np.ndarray] = {}
    for entry in entries_of(model):
        value = np.asarray(_numpy(variables[entry.ours]), dtype=np.float32)
        for name, part in zip(entry.theirs, np.split(value, len(entry.theirs), axis=-1), strict=True):
            tensors[name] = part.T if entry.transpose else part
    write_weights(directory, tensors)
    write_json(directory / "config.json", config)


def _numpy(variable: Any) -> np.ndarray:
    from keras import ops

    return ops.convert_to_numpy(variable)
