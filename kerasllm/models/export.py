"""What Keras' export needs to know of a language model: its named inputs, and which of their lengths are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kerasllm import backend
from kerasllm.errors import InputError

_SLOTS = ("masked_positions", "first_positions")


def signature_of(given: Mapping[str, tuple[int, str]] | None) -> list[dict[str, keras.InputSpec]]:
    """Returns the signature of inputs of any number of rows and any length.

    Args:
        given: the number of axes and the type of each input that the model was called with, by name.

    Raises:
        InputError: the model was not called.
    """
    if not given:
        raise InputError(
            "the model was not called, so that its inputs are not known: call it first, or give input_signature"
        )
    return [
        {
            name: keras.InputSpec(shape=(None,) * axes, dtype=dtype, name=name)
            for name, (axes, dtype) in given.items()
        }
    ]


def types_of(inputs: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Returns the number of axes and the type of each input by name; whole numbers and booleans count as int32."""
    types = {}
    for name, value in inputs.items():
        dtype = keras.backend.standardize_dtype(getattr(value, "dtype", "int32"))
        types[name] = (len(keras.ops.shape(value)), dtype if "float" in dtype else "int32")
    return types


def export_settings(file_format: str, signature: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the further arguments of Keras' `export`.

    Keras tells JAX that each unknown length is another one; here all inputs have the same rows and the same length.

    Args:
        file_format: the `format` of `export`.
        signature: the signature, a list of one dict by name, or something else, which is Keras' to judge.
        settings: what the user gave.

    Raises:
        InputError: Keras cannot export a model of named inputs to this format on this backend.
    """
    if file_format == "onnx":
        raise InputError(
            "ONNX files that Keras traces give other results for these models, or none: save_pretrained(DIRECTORY), "
            "then `kerasllm export --model DIRECTORY --format onnx` writes one from the weights"
        )
    if file_format != "tf_saved_model":
        return settings
    if backend.name == "torch":
        raise InputError(
            "on PyTorch, Keras exports no model with named inputs to a SavedModel: export it with "
            "KERAS_BACKEND=tensorflow"
        )
    if backend.name != "jax" or not _is_named(signature):
        return settings
    shapes = [{name: _shape(name, spec.shape) for name, spec in signature[0].items()}]
    return settings | {
        "jax2tf_kwargs": {"polymorphic_shapes": shapes} | (settings.get("jax2tf_kwargs") or {})
    }


def check_export(file_format: str, path: Any, signature: Any) -> None:
    """Checks that what was written runs, where that depends on packages that fit each other.

    Args:
        file_format: the `format` of `export`.
        path: where it was written.
        signature: its inputs, a list of one dict by name; another is not checked.

    Raises:
        InputError: it does not run.
    """
    if file_format == "tf_saved_model" and _is_named(signature):
        inputs = {
            name: np.zeros([length or 2 for length in spec.shape], spec.dtype)
            for name, spec in signature[0].items()
        }
        try:
            backend.check_saved_model(path, inputs)
        except RuntimeError as error:
            raise InputError(
                f"{path}: {error}: install releases that fit each other, or export with KERAS_BACKEND=tensorflow"
            ) from error


def _is_named(signature: Any) -> bool:
    return isinstance(signature, list | tuple) and len(signature) == 1 and isinstance(signature[0], dict)


def _shape(name: str, lengths: tuple[int | None, ...]) -> str:
    """Returns the shape as JAX reads it, such as "(batch, length)"."""
    symbols = ("batch", "slots" if name in _SLOTS else "length")
    named = [
        symbols[axis] if length is None and axis < 2 else f"{name}_{axis}" if length is None else str(length)
        for axis, length in enumerate(lengths)
    ]
    return f"({', '.join(named)})"
