"""BERT and GPT-2 from KerasHub (formerly KerasNLP) and back, as backbones: the same weights, the same outputs.

KerasHub is imported only when one of the functions is called: it brings TensorFlow along. The heads are left out,
as they differ: KerasHub's `BertMaskedLM` normalises with another epsilon than BERT's published head, its
`BertTextClassifier` starts from the same pooled output as `BertClassifier`, and its `GPT2CausalLM` has no weights
beside the backbone's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerasllm.checkpoints.name_table import Entry
from kerasllm.errors import InputError
from kerasllm.layers.initializers import drawing_later
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPTConfig
from kerasllm.models.gpt.names import GPT2_SHAPE

_SIZES = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "max_sequence_length",
)
_ACTIVATIONS = ("gelu_tanh", "gelu", "relu", "silu")


def from_keras_hub(backbone: Any) -> BertBackbone | GPTBackbone:
    """Ours from a KerasHub backbone.

    The activation and the epsilon are those that its layers have: KerasHub's BERT uses the tanh approximation of
    GELU where the published one, and ours by default, uses the exact function.

    Args:
        backbone: a `keras_hub.models.BertBackbone` or `GPT2Backbone`, or a task model upon one. To go on with a
            task of ours: `GPTCausalLM(found.config, backbone=found)`.

    Raises:
        InputError: another kind of model, or an activation that ours does not have.
    """
    hub = _import()
    backbone = getattr(backbone, "backbone", backbone)
    known = (hub.models.BertBackbone, hub.models.GPT2Backbone)
    if not isinstance(backbone, known):
        raise InputError(f"{type(backbone).__name__} is no BertBackbone or GPT2Backbone of KerasHub")
    bert = isinstance(backbone, hub.models.BertBackbone)
    shape = {name: getattr(backbone, name) for name in _SIZES} | {"dropout": backbone.dropout}
    shape |= {
        "activation": _activation(next(_inner(backbone, "feedforward_intermediate_dense"))),
        "layer_norm_epsilon": next(_inner(backbone, "feedforward_layer_norm")).epsilon,
    }
    model: BertBackbone | GPTBackbone
    with drawing_later():
        if bert:
            model = BertBackbone(BertConfig(num_segments=backbone.num_segments, **shape))
        else:
            model = GPTBackbone(GPTConfig(**shape))
    variables, theirs = model.named_variables(), {weight.path: weight for weight in backbone.weights}
    for entry in _entries(model.config):
        parts = [_numpy(theirs[path]).reshape(entry.shape_of(i) or ()) for i, path in enumerate(entry.theirs)]
        variables[entry.ours].assign(entry.join(parts))
    return model


def to_keras_hub(model: LanguageModel) -> Any:
    """KerasHub's backbone from ours.

    KerasHub's configuration knows only the tanh approximation of GELU and one epsilon a family. A model with
    the exact GELU, or another epsilon, computes with them in the object that is returned; saved and loaded by
    KerasHub it is one with KerasHub's own again.

    Args:
        model: a `BertBackbone` with a pooler or a `GPTBackbone` of GPT-2's shape, or a task model upon one, whose
            backbone is taken.

    Returns:
        A `keras_hub.models.BertBackbone` or `GPT2Backbone`.

    Raises:
        InputError: the shape is none that KerasHub's classes have.
    """
    hub = _import()
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, BertBackbone | GPTBackbone):
        raise InputError(f"{type(model).__name__} is no BERT and no GPT")
    config = backbone.config
    _check(backbone, config)
    shape = {name: getattr(config, name) for name in _SIZES} | {"dropout": config.dropout}
    if isinstance(config, BertConfig):
        found = hub.models.BertBackbone(num_segments=config.num_segments, **shape)
    else:
        found = hub.models.GPT2Backbone(**shape)
    if _activation(next(_inner(found, "feedforward_intermediate_dense"))) != config.activation:
        for dense in _inner(found, "feedforward_intermediate_dense"):
            dense.activation = _function(config.activation)
    for layer in found._flatten_layers():
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = config.layer_norm_epsilon
    theirs = {weight.path: weight for weight in found.weights}
    for entry in _entries(config):
        for path, value in entry.split(np.asarray(backbone.merged(entry.ours), np.float32)):
            theirs[path].assign(value.reshape(theirs[path].shape))
    return found


def _import() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise InputError("KerasHub is not installed: pip install 'kerasllm[keras-nlp]'") from error
    return keras_hub


def _check(backbone: LanguageModel, config: Any) -> None:
    """Refuses by name what KerasHub's two classes do not have."""
    for name in ("attention_dropout", "embedding_dropout"):
        rate = getattr(config, name, config.dropout)
        if rate != config.dropout:
            raise InputError(f"{name} is {rate}, dropout {config.dropout}: KerasHub has one for both")
    if isinstance(backbone, BertBackbone):
        if backbone.pooler is None:
            raise InputError("the model has no pooler, KerasHub's BertBackbone always has one")
        return
    for name, value in (GPT2_SHAPE | {"num_key_value_heads": config.num_heads}).items():
        found = getattr(config, name)
        if found != value:
            raise InputError(f"{name} is {found!r}, KerasHub's GPT2Backbone has {value!r}")


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


def _entries(config: BertConfig | GPTConfig) -> list[Entry]:
    """The name table: our variables and the paths of theirs, whose heads are axes of their own."""
    bert = isinstance(config, BertConfig)
    width, wide = config.hidden_dim, config.intermediate_dim or 4 * config.hidden_dim
    tables = {"token": config.vocabulary_size, "position": config.max_sequence_length}
    if isinstance(config, BertConfig):
        tables["segment"] = config.num_segments
    found = [
        Entry(f"embeddings/{name}", (f"{name}_embedding/embeddings",), (rows, width))
        for name, rows in tables.items()
    ]
    if bert:
        found += _norm("embeddings/norm_", "embeddings_layer_norm", width)
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"transformer_layer_{index}/"
        attention = f"{theirs}self_attention{'_layer' if bert else ''}/"
        second = "output_norm_" if bert else "feed_forward_norm_"
        projections = tuple(f"{attention}{name}" for name in ("query", "key", "value"))
        found += _dense(f"{ours}query_key_value_", (width, 3 * width), *projections)
        found += _dense(f"{ours}attention_output_", (width, width), f"{attention}attention_output")
        found += _dense(f"{ours}intermediate_", (width, wide), f"{theirs}feedforward_intermediate_dense")
        found += _dense(f"{ours}output_", (wide, width), f"{theirs}feedforward_output_dense")
        found += _norm(f"{ours}attention_norm_", f"{theirs}self_attention_layer_norm", width)
        found += _norm(f"{ours}{second}", f"{theirs}feedforward_layer_norm", width)
    if bert:
        return found + _dense("pooler/", (width, width), "pooled_dense")
    return found + _norm("final_norm/norm_", "layer_norm", width)


def _dense(ours: str, shape: tuple[int, int], *theirs: str) -> list[Entry]:
    return [
        Entry(f"{ours}kernel", tuple(f"{path}/kernel" for path in theirs), shape),
        Entry(f"{ours}bias", tuple(f"{path}/bias" for path in theirs), shape[1:]),
    ]


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [
        Entry(f"{ours}scale", (f"{theirs}/gamma",), (width,)),
        Entry(f"{ours}bias", (f"{theirs}/beta",), (width,)),
    ]
