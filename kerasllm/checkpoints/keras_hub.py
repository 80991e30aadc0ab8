"""Backbones from KerasHub (formerly KerasNLP) and back: the same weights, the same outputs.

A family hands its table in. The heads are left out, as they differ: KerasHub's `BertMaskedLM` normalizes with another
epsilon than BERT's published head, its `BertTextClassifier` starts from the same pooled output as `BertClassifier`, and
its `GPT2CausalLM` has no weights beside the backbone's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasllm.checkpoints.name_table import Entry
from kerasllm.errors import InputError
from kerasllm.layers.initializers import drawing_later

_SIZES = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "max_sequence_length",
)
_ACTIVATIONS = ("gelu_tanh", "gelu", "relu", "silu")


@dataclass(frozen=True)
class KerasHubTable:
    """How KerasHub has a family's backbone.

    Args:
        backbone: the name of its class in `keras_hub.models`.
        entries: returns the name table of a config: our variables and the paths of theirs.
        check: raises an `InputError` for a backbone of ours that theirs cannot represent.
        more_sizes: settings that both have under one name, beside those that all families have.
    """

    backbone: str
    entries: Callable[[Any], list[Entry]]
    check: Callable[[Any], None]
    more_sizes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[str, ...]:
        """The settings that both have under one name."""
        return (*_SIZES, *self.more_sizes)


def backbone_from_keras_hub(
    theirs: Any, table: KerasHubTable, backbone_class: type, config_class: type
) -> Any:
    """Returns our backbone with the weights of theirs.

    The activation and the epsilon are those that its layers have: KerasHub's BERT uses the tanh approximation of
    GELU where the published one, and ours by default, uses the exact function.

    Args:
        theirs: an instance of `table.backbone`.
        table: the family's.
        backbone_class: ours, called with a config.
        config_class: ours.

    Raises:
        InputError: its activation is none that ours has.
    """
    shape = {name: getattr(theirs, name) for name in table.sizes} | {"dropout": theirs.dropout}
    shape |= {
        "activation": _activation(next(_inner(theirs, "feedforward_intermediate_dense"))),
        "layer_norm_epsilon": next(_inner(theirs, "feedforward_layer_norm")).epsilon,
    }
    with drawing_later():
        model = backbone_class(config_class(**shape))
    variables, weights = model.named_variables(), {weight.path: weight for weight in theirs.weights}
    for entry in table.entries(model.config):
        parts = [
            _numpy(weights[path]).reshape(entry.shape_of(i) or ()) for i, path in enumerate(entry.theirs)
        ]
        variables[entry.ours].assign(entry.join(parts))
    return model


def backbone_to_keras_hub(backbone: Any, table: KerasHubTable) -> Any:
    """Returns KerasHub's backbone with the weights of ours.

    KerasHub's configuration knows only the tanh approximation of GELU and one epsilon a family. A model with
    the exact GELU, or another epsilon, computes with them in the object that is returned; saved and loaded by
    KerasHub it is one with KerasHub's own again.

    Args:
        backbone: ours.
        table: the family's.

    Raises:
        InputError: the shape is none that KerasHub's class has.
    """
    hub = import_keras_hub()
    config = backbone.config
    for name in ("attention_dropout", "embedding_dropout"):
        rate = getattr(config, name, config.dropout)
        if rate != config.dropout:
            raise InputError(f"{name} is {rate}, dropout {config.dropout}: KerasHub has one for both")
    table.check(backbone)
    shape = {name: getattr(config, name) for name in table.sizes} | {"dropout": config.dropout}
    found = getattr(hub.models, table.backbone)(**shape)
    if _activation(next(_inner(found, "feedforward_intermediate_dense"))) != config.activation:
        for layer in _inner(found, "feedforward_intermediate_dense"):
            layer.activation = _function(config.activation)
    for layer in found._flatten_layers():
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = config.layer_norm_epsilon
    theirs = {weight.path: weight for weight in found.weights}
    for entry in table.entries(config):
        for path, value in entry.split(np.asarray(backbone.merged(entry.ours), np.float32)):
            theirs[path].assign(value.reshape(theirs[path].shape))
    return found


def import_keras_hub() -> Any:
    """Returns the package, which brings TensorFlow along.

    Raises:
        InputError: it is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise InputError("KerasHub is not installed: pip install 'kerasllm[keras-nlp]'") from error
    return keras_hub


def _inner(backbone: Any, name: str) -> Iterator[Any]:
    """The layers of a name within its blocks."""
    return (layer for layer in backbone._flatten_layers() if layer.name == name)


def _function(activation: str) -> Any:
    """The activation of that name as a function of tensors."""
    if activation in ("gelu", "gelu_tanh"):
        return keras.activations.gelu if activation == "gelu" else _gelu_tanh
    return keras.activations.get(activation)


def _gelu_tanh(inputs):
    return keras.activations.gelu(inputs, approximate=True)


def _activation(layer: Any) -> str:
    """Our name of a layer's activation, by what it makes of some numbers: functions have no reliable names."""
    numbers = keras.ops.convert_to_tensor(np.linspace(-4, 4, 33, dtype=np.float32))
    made = _numpy(layer.activation(numbers))
    for name in _ACTIVATIONS:
        if np.allclose(made, _numpy(_function(name)(numbers)), rtol=0, atol=1e-5):
            return name
    raise InputError(f"activation {layer.activation} of {layer.name} is none of {', '.join(_ACTIVATIONS)}")


def _numpy(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value), dtype=np.float32)


def dense(ours: str, shape: tuple[int, int], *theirs: str) -> list[Entry]:
    """Returns the entries of a dense layer, or of several that are one here, by the paths of theirs."""
    return [
        Entry(f"{ours}kernel", tuple(f"{path}/kernel" for path in theirs), shape),
        Entry(f"{ours}bias", tuple(f"{path}/bias" for path in theirs), shape[1:]),
    ]


def norm(ours: str, theirs: str, width: int) -> list[Entry]:
    """Returns the entries of a layer norm."""
    return [
        Entry(f"{ours}scale", (f"{theirs}/gamma",), (width,)),
        Entry(f"{ours}bias", (f"{theirs}/beta",), (width,)),
    ]
