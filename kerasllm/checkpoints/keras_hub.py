"""Conversion of backbones from and to KerasHub (formerly KerasNLP), with the same weights and outputs.

Each family passes in its table. Heads are not converted: KerasHub's `BertMaskedLM` normalizes with another epsilon than
BERT's published head, its `BertTextClassifier` starts from the same pooled output as `BertClassifier`, and its
`GPT2CausalLM` has no weights besides those of its backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasllm.checkpoints.name_table import Entry
from kerasllm.errors import InputError, require
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
    """KerasHub's counterpart of a family's backbone.

    Args:
        backbone: the name of the class in `keras_hub.models`.
        entries: a function that returns the name table of a config: our variables and the paths of theirs.
        check: a function that raises an `InputError` if their class cannot represent our backbone.
        more_sizes: settings with the same name in both, in addition to those that all families share.
    """

    backbone: str
    entries: Callable[[Any], list[Entry]]
    check: Callable[[Any], None]
    more_sizes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[str, ...]:
        """The settings that have the same name in both."""
        return (*_SIZES, *self.more_sizes)


def backbone_from_keras_hub(
    theirs: Any, table: KerasHubTable, backbone_class: type, config_class: type
) -> Any:
    """Returns a kerasllm backbone with the weights of a KerasHub backbone.

    The activation and the epsilon are taken from the layers: KerasHub's BERT uses the tanh approximation of GELU,
    while the published one, and ours by default, uses the exact function.

    Args:
        theirs: an instance of KerasHub's class `table.backbone`.
        table: the family's table.
        backbone_class: our backbone class, which is called with a config.
        config_class: our config class.

    Raises:
        InputError: the activation is not supported here.
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
    """Returns a KerasHub backbone with the weights of a kerasllm backbone.

    KerasHub's configuration has only the tanh approximation of GELU and one epsilon per family. The returned object
    uses the activation and epsilon of our model, but they are lost when KerasHub saves and loads it.

    Args:
        backbone: our backbone.
        table: the family's table.

    Raises:
        InputError: KerasHub's class cannot represent the backbone.
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
    """Returns the `keras_hub` package, which is imported only here, as it imports TensorFlow.

    Raises:
        InputError: it is not installed.
    """
    require("this checkpoint", "keras-nlp", "keras_hub")
    import keras_hub

    return keras_hub


def _inner(backbone: Any, name: str) -> Iterator[Any]:
    """Returns an iterator over all nested layers with this name."""
    return (layer for layer in backbone._flatten_layers() if layer.name == name)


def _function(activation: str) -> Any:
    """Returns the activation function with this name."""
    if activation in ("gelu", "gelu_tanh"):
        return keras.activations.gelu if activation == "gelu" else _gelu_tanh
    return keras.activations.get(activation)


def _gelu_tanh(inputs):
    return keras.activations.gelu(inputs, approximate=True)


def _activation(layer: Any) -> str:
    """Returns our name of a layer's activation, found by its values, as functions have no reliable names."""
    numbers = keras.ops.convert_to_tensor(np.linspace(-4, 4, 33, dtype=np.float32))
    made = _numpy(layer.activation(numbers))
    for name in _ACTIVATIONS:
        if np.allclose(made, _numpy(_function(name)(numbers)), rtol=0, atol=1e-5):
            return name
    raise InputError(f"activation {layer.activation} of {layer.name} is none of {', '.join(_ACTIVATIONS)}")


def _numpy(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value), dtype=np.float32)


def dense(ours: str, shape: tuple[int, int], *theirs: str) -> list[Entry]:
    """Returns the entries of a dense layer, which may stand for several of KerasHub's layers, given by their paths."""
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
