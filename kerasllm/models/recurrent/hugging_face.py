"""Recurrent models on the disk: a config.json of our own, and weights by the names of `torch.nn`'s layers.

The tensors `rnn.weight_ih_l0` … are those of `torch.nn.LSTM`, `GRU` or `RNN`, without the prefix `rnn.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from kerasllm.backend.recurrent_cells import GATES
from kerasllm.checkpoints.config_fields import build_config
from kerasllm.checkpoints.name_table import Architecture, Entry, Format
from kerasllm.errors import InputError, short
from kerasllm.models.recurrent.backbone import RecurrentBackbone
from kerasllm.models.recurrent.classifier import RecurrentClassifier
from kerasllm.models.recurrent.config import RecurrentConfig
from kerasllm.models.recurrent.language_model import RecurrentLM

_KINDS = {"single_label_classification": False, "multi_label_classification": True}


def _read(theirs: Mapping[str, Any], path: str) -> RecurrentConfig:
    names = {field.name for field in fields(RecurrentConfig)}
    return build_config(RecurrentConfig, {name: theirs[name] for name in names & theirs.keys()}, path, {})


def _write(model: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [RECURRENT.architecture_of(type(model))]}
    config |= {"model_type": RECURRENT.model_type, **asdict(model.config)}
    if isinstance(model, RecurrentClassifier):
        names = model.label_names or tuple(f"LABEL_{index}" for index in range(model.num_classes))
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["problem_type"] = list(_KINDS)[model.multi_label]
        config["pooling"] = model.pooling
    return config


def _class_settings(
    model_class: type,
    theirs: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, tuple[int, ...]],
    asked: dict[str, Any],
) -> dict[str, Any]:
    if not issubclass(model_class, RecurrentClassifier) or "id2label" not in theirs:
        return asked
    if "num_classes" in asked or "label_names" in asked:
        return asked
    labels: Any = theirs["id2label"]
    kind, pooling = theirs.get("problem_type"), theirs.get("pooling")
    numbers = [str(index) for index in range(len(labels))] if isinstance(labels, dict) else []
    if len(numbers) < 2 or set(labels) != set(numbers) or len(set(map(str, labels.values()))) < len(numbers):
        raise InputError(
            f"{path}: id2label is {short(labels)}, it must be an object of ids, 0 and up, and names"
        )
    if kind not in _KINDS or pooling not in ("last", "mean"):
        raise InputError(
            f"{path}: problem_type is {short(kind)} and pooling {short(pooling)}, which no classifier here has"
        )
    head = shapes.get("classifier.weight")
    if head and head[0] != len(labels):
        raise InputError(
            f"{path}: says {len(labels)} labels, and classifier.weight has {head[0]}: "
            "the two do not belong together; copy the model anew, or give num_classes for a new head"
        )
    names = tuple(str(labels[number]) for number in numbers)
    return {"label_names": names, "multi_label": _KINDS[kind], "pooling": pooling} | asked


def layer_entries(
    config: Any, name: str, theirs: tuple[str, int], width: int, *, bidirectional: bool = False
) -> list[Entry]:
    """Returns the entries of a recurrent layer, by the names of `torch.nn`.

    Args:
        config: a config with `kind` and `hidden_dim`.
        name: our layer's name.
        theirs: the name of the module of `torch.nn`, and the number of the layer in it.
        width: of the layer's inputs.
        bidirectional: whether there is a second direction.
    """
    rows, (module, index) = GATES[config.kind] * config.hidden_dim, theirs
    parts = {
        "input_kernel": ("weight_ih", (rows, width)),
        "recurrent_kernel": ("weight_hh", (rows, config.hidden_dim)),
        "input_bias": ("bias_ih", (rows,)),
        "recurrent_bias": ("bias_hh", (rows,)),
    }
    directions = {"": "", "backward_": "_reverse"} if bidirectional else {"": ""}
    return [
        Entry(f"{name}/{prefix}{ours}", (f"{module}.{kind}_l{index}{suffix}",), shape)
        for prefix, suffix in directions.items()
        for ours, (kind, shape) in parts.items()
    ]


def _entries(config: RecurrentConfig) -> list[Entry]:
    """Returns the name table."""
    narrow, wide = config.embedding_dim or 0, config.hidden_dim * (1 + config.bidirectional)
    found = [Entry("embeddings/token", ("embedding.weight",), (config.vocabulary_size, narrow))]
    for index in range(config.num_layers):
        width = wide if index else narrow
        found += layer_entries(
            config, f"recurrent_{index}", ("rnn", index), width, bidirectional=config.bidirectional
        )
    if config.use_projection:
        kernel = (wide, config.output_dim)
        found.append(Entry("projection/kernel", ("projection.weight",), kernel, transpose=True))
        found.append(Entry("projection/bias", ("projection.bias",), kernel[1:]))
    if not config.tie_embeddings:
        found.append(Entry("head/kernel", ("decoder.weight",), (config.vocabulary_size, config.output_dim)))
        found.append(Entry("head/bias", ("decoder.bias",), (config.vocabulary_size,)))
    found.append(Entry("classifier/kernel", ("classifier.weight",), transpose=True))
    found.append(Entry("classifier/bias", ("classifier.bias",)))
    return found


def _write_generation(model: Any) -> dict[str, Any] | None:
    if not isinstance(model, RecurrentLM) or model.config.end_token_id is None:
        return None
    return {"eos_token_id": model.config.end_token_id}


RECURRENT = Format(
    model_type="kerasllm_recurrent",
    architectures=(
        Architecture("RecurrentLM", RecurrentLM, None, "text-generation"),
        Architecture("RecurrentBackbone", RecurrentBackbone, None, "feature-extraction"),
        Architecture("RecurrentClassifier", RecurrentClassifier, None, "text-classification"),
    ),
    entries=_entries,
    heads=("head", "classifier"),
    read_config=_read,
    write_config=_write,
    class_settings=_class_settings,
    write_generation=_write_generation,
)
