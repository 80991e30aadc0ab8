"""BERT's config.json and task classes; the weights' names are in `bert_names`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerasllm.checkpoints.config_fields import (
    build_config,
    read_fields,
    refuse_others,
    written_activation,
)
from kerasllm.checkpoints.name_table import Format
from kerasllm.errors import InputError
from kerasllm.models.bert import names as bert_names
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig, short
from kerasllm.models.bert.names import CONFIG_NAMES
from kerasllm.models.bert.tasks import (
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)

_ARCHITECTURES = {
    BertBackbone: "BertModel",
    BertPretraining: "BertForPreTraining",
    BertMaskedLM: "BertForMaskedLM",
    BertClassifier: "BertForSequenceClassification",
    BertRegressor: "BertForSequenceClassification",
}
_SINGLE, _MULTI = "single_label_classification", "multi_label_classification"
_ONE_OBJECTIVE = {"masked_lm": "BertForMaskedLM", "next_sentence": "BertForNextSentencePrediction"}


def _read_config(theirs: Mapping[str, Any], path: str) -> BertConfig:
    refuse_others(
        theirs,
        path,
        {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    )
    required = ("vocab_size", "hidden_size", "num_hidden_layers")
    fields = read_fields(theirs, path, CONFIG_NAMES, required, "hidden_act", bert_names.DEFAULTS)
    return build_config(BertConfig, fields, path, CONFIG_NAMES)


def _write_config(model: Any) -> dict[str, Any]:
    architecture = _ARCHITECTURES[type(model)]
    if isinstance(model, BertPretraining) and len(model.objectives) == 1:
        architecture = _ONE_OBJECTIVE[model.objectives[0]]
    config: dict[str, Any] = {"architectures": [architecture], "model_type": "bert"}
    config |= {name: getattr(model.config, ours) for ours, name in CONFIG_NAMES.items()}
    config["hidden_act"] = written_activation(model.config)
    names: tuple[str, ...] = ()
    if isinstance(model, BertClassifier):
        names = model.label_names or tuple(f"LABEL_{index}" for index in range(model.num_classes))
        config["problem_type"] = _MULTI if model.multi_label else _SINGLE
    if isinstance(model, BertRegressor):
        names, config["problem_type"] = ("LABEL_0",), "regression"
    if names:
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
    return config | {"position_embedding_type": "absolute", "dtype": "float32"}


def _class_settings(
    cls: type,
    theirs: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, tuple[int, ...]],
    asked: dict[str, Any],
) -> dict[str, Any]:
    if cls is BertBackbone:
        return {"pooler": any(name.endswith("pooler.dense.weight") for name in shapes)} | asked
    if cls is BertRegressor:
        _check_regression(theirs, path)
    if cls is not BertClassifier or "num_classes" in asked or "label_names" in asked:
        return asked
    kind = theirs.get("problem_type")
    if kind not in (None, _SINGLE, _MULTI):
        mend = "; BertRegressor reads it" if kind == "regression" else ""
        raise InputError(
            f"{path}: problem_type is {kind!r}, a BertClassifier's is {_SINGLE!r} or {_MULTI!r}{mend}, "
            "or give num_classes for a new head"
        )
    names = _label_names(theirs, path)
    if kind is None and names and len(names) == 1:
        raise InputError(f"{path}: has one label: BertRegressor reads it, or give num_classes for a new head")
    count = len(names) if names else theirs.get("num_labels", 2)
    head = shapes.get("classifier.weight")
    if head and head[0] != count:
        raise InputError(
            f"{path}: says {count} labels, and classifier.weight has {head[0]}: "
            "the two do not belong together; copy the model anew, or give num_classes for a new head"
        )
    if not isinstance(count, int) or isinstance(count, bool) or not 2 <= count <= _most_labels(shapes):
        raise InputError(
            f"{path}: num_labels is {count!r}: a BertClassifier has at least 2, and no more than the weights are "
            "large; give num_classes for a new head"
        )
    return {"num_classes": count, "label_names": names, "multi_label": kind == _MULTI} | asked


def _check_regression(theirs: Mapping[str, Any], path: str) -> None:
    if theirs.get("problem_type") == "regression" and len(_label_names(theirs, path) or (0,)) > 1:
        raise InputError(f"{path}: a regression of several numbers (id2label) cannot be represented")


def _most_labels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """A new head is at most as large as the largest tensor there is, or has a thousand labels."""
    return max(1000, max((shape[0] for shape in shapes.values() if shape), default=0))


def _label_names(theirs: Mapping[str, Any], path: str) -> tuple[str, ...] | None:
    """The labels in the order of their ids; None where config.json has none."""
    labels = theirs.get("id2label")
    if not labels:
        return None
    if not isinstance(labels, dict) or set(labels) != {str(index) for index in range(len(labels))}:
        raise InputError(
            f"{path}: id2label is {short(labels)}, it must be an object of ids, 0 and up, and names"
        )
    names = [labels[str(index)] for index in range(len(labels))]
    seen: set[Any] = set()
    for name in names:
        is_name = isinstance(name, str | int | float)
        if not is_name or name in seen:
            fault = "occurs twice" if is_name else "is no name"
            raise InputError(f"{path}: id2label: {short(name)} {fault}; give each label a name of its own")
        seen.add(name)
    return tuple(map(str, names))


def _redundant(name: str, config: BertConfig) -> bool:
    names = bert_names.BUFFERS + (bert_names.TIED if config.tie_embeddings else ())
    return name.removeprefix("bert.").startswith(names)


def _modern(name: str) -> str:
    """TensorFlow's old names of layer normalisation's weights are replaced."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


BERT = Format(
    model_type="bert",
    prefix="bert.",
    entries=bert_names.entries,
    headed=("cls.", "classifier."),
    read_config=_read_config,
    write_config=_write_config,
    class_settings=_class_settings,
    redundant=_redundant,
    tied=("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
    modern=_modern,
)
