"""BERT in Hugging Face's format: config.json, the task classes, and the names of the weights in both directions.

An entry of the name table maps one of our variables to one or more of their tensors, which are concatenated along the
last axis (the query, key and value projections are one kernel here). Their kernels are stored as (outputs, inputs),
ours as (inputs, outputs), hence `transpose`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasllm.checkpoints.config_fields import (
    build_config,
    read_fields,
    refuse_others,
    written_activation,
)
from kerasllm.checkpoints.name_table import Architecture, Entry, Format, norm
from kerasllm.errors import InputError, short
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.encoder import BertEncoder
from kerasllm.models.bert.question_answering import BertQuestionAnswering
from kerasllm.models.bert.sentence_transformers import read_modules, read_projection, write_modules
from kerasllm.models.bert.tasks import (
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.bert.token_classifier import BertTokenClassifier

# Buffers in older files, and tensors that repeat other weights if the projection is tied to the token embedding.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")

# Our setting: their setting. Used for reading and writing.
_CONFIG_NAMES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
    "pad_token_id": "pad_token_id",
}

# The values of settings that their config.json leaves out, where our defaults differ.
_DEFAULTS = {"intermediate_size": 3072, "attention_probs_dropout_prob": 0.1}

_EMBEDDING = "sentence_embedding"  # the key in config.json of an encoder, which also has a modules.json

_SEQUENCE = ("BertForSequenceClassification", "AutoModelForSequenceClassification", "text-classification")
_ARCHITECTURES = (
    Architecture("BertModel", BertBackbone, "AutoModel", "feature-extraction"),
    Architecture("BertModel", BertEncoder, "AutoModel", "sentence-similarity", key=_EMBEDDING),
    Architecture("BertForPreTraining", BertPretraining, "AutoModelForPreTraining", "fill-mask"),
    Architecture("BertForMaskedLM", BertMaskedLM, "AutoModelForMaskedLM", "fill-mask"),
    Architecture(
        "BertForNextSentencePrediction", BertPretraining, "AutoModelForNextSentencePrediction", None
    ),
    Architecture(_SEQUENCE[0], BertClassifier, *_SEQUENCE[1:]),
    Architecture(_SEQUENCE[0], BertRegressor, *_SEQUENCE[1:], problem_type="regression"),
    Architecture(
        "BertForTokenClassification",
        BertTokenClassifier,
        "AutoModelForTokenClassification",
        "token-classification",
    ),
    Architecture(
        "BertForQuestionAnswering",
        BertQuestionAnswering,
        "AutoModelForQuestionAnswering",
        "question-answering",
    ),
)
_SINGLE, _MULTI = "single_label_classification", "multi_label_classification"
_ONE_OBJECTIVE = {"masked_lm": "BertForMaskedLM", "next_sentence": "BertForNextSentencePrediction"}


def _read_config(theirs: Mapping[str, Any], path: str) -> BertConfig:
    refuse_others(
        theirs,
        path,
        {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    )
    required = ("vocab_size", "hidden_size", "num_hidden_layers")
    fields = read_fields(theirs, path, _CONFIG_NAMES, required, "hidden_act", _DEFAULTS)
    return build_config(BertConfig, fields, path, _CONFIG_NAMES)


def _write_config(model: Any) -> dict[str, Any]:
    architecture = BERT.architecture_of(type(model))
    if isinstance(model, BertPretraining) and len(model.objectives) == 1:
        architecture = _ONE_OBJECTIVE[model.objectives[0]]
    config: dict[str, Any] = {"architectures": [architecture], "model_type": "bert"}
    config |= {name: getattr(model.config, ours) for ours, name in _CONFIG_NAMES.items()}
    if isinstance(model, BertEncoder):
        config[_EMBEDDING] = True
    config["hidden_act"] = written_activation(model.config)
    names: tuple[str, ...] = ()
    if isinstance(model, BertClassifier | BertTokenClassifier):
        names = model.label_names or tuple(f"LABEL_{index}" for index in range(model.num_classes))
    if isinstance(model, BertClassifier):
        config["problem_type"] = _MULTI if model.multi_label else _SINGLE
    if isinstance(model, BertRegressor):
        names, config["problem_type"] = ("LABEL_0",), "regression"
    if names:
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
    return config | {"position_embedding_type": "absolute", "dtype": "float32"}


def _class_settings(
    model_class: type,
    theirs: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, tuple[int, ...]],
    asked: dict[str, Any],
) -> dict[str, Any]:
    if issubclass(model_class, BertBackbone):
        return {"pooler": any(name.endswith("pooler.dense.weight") for name in shapes)} | asked
    if issubclass(model_class, BertEncoder):
        return _encoder_settings(theirs, Path(path).parent) | asked
    if issubclass(model_class, BertRegressor):
        _check_regression(theirs, path)
    labelled = issubclass(model_class, BertClassifier | BertTokenClassifier)
    if not labelled or "num_classes" in asked or "label_names" in asked:
        return asked
    kind = theirs.get("problem_type")
    if issubclass(model_class, BertTokenClassifier):
        return _label_settings(theirs, path, shapes) | asked
    if kind not in (None, _SINGLE, _MULTI):
        mend = "; BertRegressor reads it" if kind == "regression" else ""
        raise InputError(
            f"{path}: problem_type is {kind!r}, a BertClassifier's is {_SINGLE!r} or {_MULTI!r}{mend}, "
            "or give num_classes for a new head"
        )
    names = _label_names(theirs, path)
    if kind is None and names and len(names) == 1:
        raise InputError(f"{path}: has one label: BertRegressor reads it, or give num_classes for a new head")
    return _label_settings(theirs, path, shapes) | {"multi_label": kind == _MULTI} | asked


def _encoder_settings(theirs: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    config = _read_config(theirs, str(directory / "config.json"))
    return read_modules(directory, config.hidden_dim, config.max_sequence_length)


def _label_settings(
    theirs: Mapping[str, Any], path: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Returns `num_classes` and `label_names`, which must fit the weights."""
    names = _label_names(theirs, path)
    count = len(names) if names else theirs.get("num_labels", 2)
    head = shapes.get("classifier.weight")
    if head and head[0] != count:
        raise InputError(
            f"{path}: says {count} labels, and classifier.weight has {head[0]}: "
            "the two do not belong together; copy the model anew, or give num_classes for a new head"
        )
    if not isinstance(count, int) or isinstance(count, bool) or not 2 <= count <= _most_labels(shapes):
        raise InputError(
            f"{path}: num_labels is {count!r}: a classifier has at least 2, and no more than the weights are "
            "large; give num_classes for a new head"
        )
    return {"num_classes": count, "label_names": names}


def _check_regression(theirs: Mapping[str, Any], path: str) -> None:
    if theirs.get("problem_type") == "regression" and len(_label_names(theirs, path) or (0,)) > 1:
        raise InputError(f"{path}: a regression of several numbers (id2label) cannot be represented")


def _most_labels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the most labels that are believed: the rows of the largest tensor, but at least a thousand."""
    return max(1000, max((shape[0] for shape in shapes.values() if shape), default=0))


def _label_names(theirs: Mapping[str, Any], path: str) -> tuple[str, ...] | None:
    """Returns the labels in the order of their ids, or None if config.json has none."""
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
    names = _BUFFERS + (_TIED if config.tie_embeddings else ())
    return name.removeprefix("bert.").startswith(names)


def _modern(name: str) -> str:
    """Returns a tensor's name with TensorFlow's old names of layer-normalization weights replaced."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _dense(ours: str, inputs: int, outputs: int, *theirs: str) -> list[Entry]:
    kernels, biases = (tuple(f"{name}.{part}" for name in theirs) for part in ("weight", "bias"))
    return [
        Entry(f"{ours}kernel", kernels, (inputs, outputs), transpose=True),
        Entry(f"{ours}bias", biases, (outputs,)),
    ]


def _entries(config: BertConfig) -> list[Entry]:
    """Returns the name table, without the prefix `bert.` that the encoder's names have in task models."""
    width, wide = config.hidden_dim, config.intermediate_dim or 4 * config.hidden_dim
    sizes = {
        "token": ("word", config.vocabulary_size),
        "position": ("position", config.max_sequence_length),
        "segment": ("token_type", config.num_segments),
    }
    found = [
        Entry(f"embeddings/{ours}", (f"embeddings.{theirs}_embeddings.weight",), (rows, width))
        for ours, (theirs, rows) in sizes.items()
    ]
    found += norm("embeddings/norm_", "embeddings.LayerNorm", width)
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"encoder.layer.{index}."
        attention = f"{theirs}attention."
        projections = (f"{attention}self.query", f"{attention}self.key", f"{attention}self.value")
        found += _dense(f"{ours}query_key_value_", width, 3 * width, *projections)
        found += _dense(f"{ours}attention_output_", width, width, f"{attention}output.dense")
        found += norm(f"{ours}attention_norm_", f"{attention}output.LayerNorm", width)
        found += _dense(f"{ours}intermediate_", width, wide, f"{theirs}intermediate.dense")
        found += _dense(f"{ours}output_", wide, width, f"{theirs}output.dense")
        found += norm(f"{ours}output_norm_", f"{theirs}output.LayerNorm", width)
    return found + _dense("pooler/", width, width, "pooler.dense") + _heads(config)


def _heads(config: BertConfig) -> list[Entry]:
    width, rows = config.hidden_dim, config.vocabulary_size
    predictions = "cls.predictions."
    bias, other = f"{predictions}bias", f"{predictions}decoder.bias"
    if config.tie_embeddings:
        projection = [
            Entry("masked_lm_head/vocabulary_bias", (bias,), (rows,), alias=other, alias_first=True)
        ]
    else:  # transformers uses decoder.bias, and warns if predictions.bias is missing
        projection = [
            Entry("masked_lm_head/vocabulary_bias", (other,), (rows,), alias=bias, twice=True),
            Entry("masked_lm_projection/kernel", (f"{predictions}decoder.weight",), (rows, width)),
        ]
    classifier = [
        Entry("classifier/kernel", ("classifier.weight",), transpose=True),
        Entry("classifier/bias", ("classifier.bias",)),
    ]
    return [
        *_dense("masked_lm_head/", width, width, f"{predictions}transform.dense"),
        *norm("masked_lm_head/norm_", f"{predictions}transform.LayerNorm", width),
        *projection,
        *_dense("next_sentence_head/", width, 2, "cls.seq_relationship"),
        *_dense("answer_head/", width, 2, "qa_outputs"),
        *classifier,
    ]


def _write_parts(model: Any, directory: Path) -> None:
    if isinstance(model, BertEncoder):
        write_modules(model, directory)
    else:  # one may be left from another model
        (directory / "modules.json").unlink(missing_ok=True)


def _read_parts(model: Any, directory: Path) -> None:
    if isinstance(model, BertEncoder):
        read_projection(model, directory)


BERT = Format(
    model_type="bert",
    architectures=_ARCHITECTURES,
    prefix="bert.",
    entries=_entries,
    headed=("cls.", "classifier.", "qa_outputs."),
    heads=(
        "pooler",
        "masked_lm_head",
        "masked_lm_projection",
        "next_sentence_head",
        "classifier",
        "answer_head",
    ),
    read_config=_read_config,
    write_config=_write_config,
    class_settings=_class_settings,
    redundant=_redundant,
    tied=("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
    modern=_modern,
    write_parts=_write_parts,
    read_parts=_read_parts,
)
