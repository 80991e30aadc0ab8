"""BERT's config.json and task classes; the weights' names are in `bert_names`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerasllm.checkpoints import bert_names
from kerasllm.checkpoints.bert_names import CONFIG_NAMES
from kerasllm.checkpoints.name_table import ACTIVATIONS, Entry, Format
from kerasllm.errors import InputError
from kerasllm.models.bert import (
    BertBackbone,
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.bert_config import BertConfig

_ARCHITECTURES = {
    BertBackbone: "BertModel",
    BertPretraining: "BertForPreTraining",
    BertMaskedLM: "BertForMaskedLM",
    BertClassifier: "BertForSequenceClassification",
    BertRegressor: "BertForSequenceClassification",
}


def read_fields(
    theirs: Mapping[str, Any], path: str, names: Mapping[str, str], required: tuple[str, ...], act: str
) -> dict[str, Any]:
    """Fields of our config from config.json's, the activation translated.

    Args:
        theirs: config.json.
        path: its name, for messages.
        names: our field, theirs.
        required: their names that must be there.
        act: their name of the activation.

    Raises:
        InputError: a field is missing, or the activation unknown.
    """
    missing = [name for name in required if name not in theirs]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; copy the model anew")
    fields = {ours: theirs[name] for ours, name in names.items() if theirs.get(name) is not None}
    if "activation" in fields:
        known = [ours for ours, others in ACTIVATIONS.items() if fields["activation"] in others]
        if not known:
            raise InputError(f"{path}: {act} is {fields['activation']!r}, known are {', '.join(ACTIVATIONS)}")
        fields["activation"] = known[0]
    return fields


def build_config(cls: type, fields: dict[str, Any], path: str, names: Mapping[str, str]) -> Any:
    """Our config; what it finds wrong is told by their name of the field."""
    try:
        return cls(**fields)
    except (ValueError, TypeError) as error:  # begins with our name of the setting, the file has theirs
        ours, _, fault = str(error).partition(" ")
        raise InputError(f"{path}: {names.get(ours, ours)} {fault}") from error


def refuse_others(theirs: Mapping[str, Any], path: str, only: Mapping[str, Any]) -> None:
    """Refuses, by name, settings that the model here cannot represent; None counts as left out."""
    for name, value in only.items():
        found = theirs.get(name)
        if found is not None and found != value:
            raise InputError(f"{path}: {name} is {found!r}, only {value!r} can be represented")


def written_activation(config: Any) -> str:
    """Their name of a config's activation."""
    if config.activation not in ACTIVATIONS:
        raise InputError(f"activation {config.activation!r} has no name in Hugging Face's format")
    return ACTIVATIONS[config.activation][0]


def _read_config(theirs: Mapping[str, Any], path: str) -> BertConfig:
    refuse_others(
        theirs,
        path,
        {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    )
    if not isinstance(theirs.get("id2label") or {}, dict):
        raise InputError(f"{path}: id2label is {theirs['id2label']!r}, it must be an object of ids and names")
    required = ("vocab_size", "hidden_size", "num_hidden_layers")
    fields = read_fields(theirs, path, CONFIG_NAMES, required, "hidden_act")
    return build_config(BertConfig, fields, path, CONFIG_NAMES)


def _write_config(model: Any, label_names: tuple[str, ...] | None) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [_ARCHITECTURES[type(model)]], "model_type": "bert"}
    config |= {name: getattr(model.config, ours) for ours, name in CONFIG_NAMES.items()}
    config["hidden_act"] = written_activation(model.config)
    if isinstance(model, BertClassifier):
        label_names = label_names or tuple(f"LABEL_{index}" for index in range(model.num_classes))
        config["problem_type"] = "single_label_classification"
    if isinstance(model, BertRegressor):
        label_names, config["problem_type"] = ("LABEL_0",), "regression"
    if label_names:
        config["id2label"] = {str(index): name for index, name in enumerate(label_names)}
        config["label2id"] = {name: index for index, name in enumerate(label_names)}
    return config | {"position_embedding_type": "absolute", "tie_word_embeddings": True, "dtype": "float32"}


def _class_settings(cls: type, theirs: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    if cls is BertClassifier:
        labels = theirs.get("id2label") or {}
        return {"num_classes": len(labels) if labels else theirs.get("num_labels", 2)}
    if cls is BertBackbone:
        return {"pooler": any(name.endswith("pooler.dense.weight") for name in names)}
    return {}


def _shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    embeddings, layer = "embeddings.{}_embeddings.weight", f"encoder.layer.{config.num_layers - 1}."
    return {
        embeddings.format("word"): (config.vocabulary_size, config.hidden_dim),
        embeddings.format("position"): (config.max_sequence_length, config.hidden_dim),
        embeddings.format("token_type"): (config.num_segments, config.hidden_dim),
        f"{layer}intermediate.dense.weight": (config.intermediate_dim or 0, config.hidden_dim),
    }


def _entries(config: BertConfig) -> list[Entry]:
    return bert_names.backbone_entries(config.num_layers) + bert_names.HEAD_ENTRIES


BERT = Format(
    model_type="bert",
    prefix="bert.",
    entries=_entries,
    headed=("cls.", "classifier."),
    shapes=_shapes,
    read_config=_read_config,
    write_config=_write_config,
    class_settings=_class_settings,
    redundant=lambda name: name.removeprefix("bert.").startswith(bert_names.REDUNDANT),
    # TensorFlow's old names of layer normalisation's weights.
    modern=lambda name: name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    ),
)
