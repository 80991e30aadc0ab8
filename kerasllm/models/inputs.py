"""The inputs of models: their names, Hugging Face's names for them, and what is told where they do not suit.

Names and kinds are looked at wherever a model is called. Values are looked at on the host alone, in data that is about
to be used; in a compiled step, an id that is out of range gives NaN.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm.errors import InputError, short
from kerasllm.losses import IGNORED_LABEL

ALL_INPUTS = (
    *("token_ids", "segment_ids", "padding_mask", "position_ids", "sequence_ids"),
    *("masked_positions", "first_positions"),
)
"""The inputs of an encoder, of which `token_ids` alone is needed."""

HUGGING_FACE_NAMES = {
    "input_ids": "token_ids",
    "token_type_ids": "segment_ids",
    "attention_mask": "padding_mask",
}
"""The names of inputs in Hugging Face's data, with ours."""

ENCODER_DECODER_NAMES = {
    "input_ids": "encoder_token_ids",
    "attention_mask": "encoder_padding_mask",
    "decoder_input_ids": "decoder_token_ids",
}
"""The names of an encoder-decoder's inputs in Hugging Face's data, with ours."""

_TEXTS = (
    "a model takes token ids; kerasllm.TextClassificationData and its like make them of texts for `fit`, "
    "kerasllm.Predictor predicts for texts"
)
_NEEDED = ("token_ids", "encoder_token_ids", "decoder_token_ids")
_WHOLE = ("i", "u", "b")  # NumPy's letters of whole numbers
_ALIKE = {
    "token_ids": ("segment_ids", "padding_mask", "sequence_ids"),
    "encoder_token_ids": ("encoder_padding_mask",),
}
"""The inputs that have the shape of another."""


def named_inputs(inputs: Any, accepted: tuple[str, ...], model: str) -> dict[str, Any]:
    """Returns the inputs of a model as a dict by our names.

    Args:
        inputs: a dict by our names or Hugging Face's, or token ids alone: an integer array or tensor (batch, length).
        accepted: the names that the model takes.
        model: the name of the model's class, for messages.

    Raises:
        InputError: they are texts or arrays without names, or a name is missing, unknown or given twice.
    """
    if not isinstance(inputs, Mapping):
        if holds_text(inputs):
            raise InputError(f"{model} was given texts: {_TEXTS}")
        suits = (
            "token_ids" in accepted and _is_array(inputs) and len(inputs.shape) == 2 and _may_be_ids(inputs)
        )
        if not suits:
            raise InputError(f"{model} was given {_in_words(inputs)}: {_wanted(accepted)}")
        return {"token_ids": inputs}
    named: dict[str, Any] = {}
    names: dict[str, Any] = {}
    theirs = HUGGING_FACE_NAMES if "token_ids" in accepted else ENCODER_DECODER_NAMES
    for name, value in inputs.items():
        ours = theirs.get(name, name)
        if ours not in (*ALL_INPUTS, *accepted):
            raise InputError(f"{model} was given an input {short(name)}: {_meant(name, accepted)}")
        if ours not in accepted:
            given = ours if name == ours else f"{ours} (as {name})"
            packed = "; sequence_ids tell which tokens belong together" if ours == "segment_ids" else ""
            raise InputError(f"{model} takes no {given}{packed}: {_wanted(accepted)}")
        if ours in named:
            raise InputError(f"{model} was given {ours} twice, as {names[ours]} and as {name}: give it once")
        if holds_text(value):
            raise InputError(f"{model} was given texts as {name}: {_TEXTS}")
        named[ours] = _array(name, value) if isinstance(value, list | tuple) else value
        names[ours] = name
    missing = [name for name in _needed(accepted) if name not in named]
    if missing:
        raise InputError(
            f"{model} was given {', '.join(named) or 'an empty dict'} and no {missing[0]}: {_wanted(accepted)}"
        )
    _check_shapes(model, named)
    return named


def _check_shapes(model: str, inputs: Mapping[str, Any]) -> None:
    """Checks the shapes of the inputs as far as they are known.

    Raises:
        InputError: token ids have another number of axes than two, or another input does not have their shape.
    """
    for name in _NEEDED:
        ids = _shape(inputs.get(name))
        if ids is None:
            continue
        if len(ids) != 2:
            raise InputError(f"{model} was given {name} of shape {ids}: they must be (batch, length)")
        for other in _ALIKE.get(name, ()):
            found = _shape(inputs.get(other))
            if found is not None and not (
                len(found) == 2
                and all(None in pair or pair[0] == pair[1] for pair in zip(found, ids, strict=True))
            ):
                raise InputError(f"{model} was given {other} of shape {found} and {name} of shape {ids}")


def _shape(value: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of an array or tensor, with None for sizes that are not known; None if it has no shape yet."""
    shape = getattr(value, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:  # TensorFlow's, of unknown rank
        return None
    return tuple(size if size is None or isinstance(size, int) else None for size in shape)


def _array(name: str, rows: Any) -> np.ndarray:
    """Returns rows of numbers, as a tokenizer makes them, as an array."""
    try:
        return np.asarray(rows, np.int32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is a list of rows of different lengths: pad them, with a padding_mask of 0 for padding"
        ) from error


def _needed(accepted: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the inputs that may not be left out."""
    return tuple(name for name in _NEEDED if name in accepted)


def _wanted(accepted: tuple[str, ...]) -> str:
    needed = _needed(accepted)
    others = ", ".join(name for name in accepted if name not in needed)
    if not needed:
        return f"it takes a dict of {others}"
    return f"it takes a dict of {' and '.join(needed)}, int (batch, length), and, where needed, {others}"


def _meant(name: Any, accepted: tuple[str, ...]) -> str:
    """Returns what is to be done about an unknown name."""
    if name in ("labels", "label", "label_ids"):
        return "labels are given beside the inputs, as (inputs, labels)"
    near = difflib.get_close_matches(str(name), [*accepted, *HUGGING_FACE_NAMES], n=1)
    return f"did you mean {near[0]}?" if near else _wanted(accepted)


def _in_words(inputs: Any) -> str:
    if _is_array(inputs):
        return f"an array {tuple(inputs.shape)} of {inputs.dtype}"
    return f"a {type(inputs).__name__}"


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _may_be_ids(array: Any) -> bool:
    """Returns whether an array or tensor holds whole numbers, or is a `keras.Input`, whose type is often left out."""
    if isinstance(array, np.ndarray):
        return array.dtype.kind in _WHOLE
    return isinstance(array, keras.KerasTensor) or keras.backend.is_int_dtype(array.dtype)


def holds_text(value: Any) -> bool:
    """Returns whether a value is a text, or a list or an array of texts or of pairs of texts."""
    if isinstance(value, list | tuple):
        return bool(value) and holds_text(value[0])
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return bool(value.size) and holds_text(value.flat[0])
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "US"
    return isinstance(value, str | bytes) or getattr(getattr(value, "dtype", None), "name", "") == "string"


def checked_inputs(model: Any, inputs: Any, labels: Any = None, weights: Any = None) -> Any:
    """Returns the inputs that a model is about to get, as `fit` takes them, after a look at their values.

    Arrays are looked at whole, of a PyDataset the first batch, of a tf.data.Dataset the names. Other data is returned
    as it is.

    Args:
        model: a `LanguageModel`.
        inputs: what `fit` takes as `x`.
        labels: what it takes as `y`.
        weights: what it takes as `sample_weight`.

    Raises:
        InputError: the inputs are texts or have wrong names, or a value is out of the model's range.
    """
    if isinstance(inputs, keras.utils.PyDataset):
        if len(inputs):
            checked_inputs(model, *keras.utils.unpack_x_y_sample_weight(inputs[0]))
        return inputs
    name = type(model).__name__
    if not model.accepted_inputs:
        return inputs
    if hasattr(inputs, "element_spec"):  # a tf.data.Dataset
        kinds = keras.utils.unpack_x_y_sample_weight(inputs.element_spec)[0]
        if isinstance(kinds, Mapping) or holds_text(kinds):
            named_inputs(kinds, model.accepted_inputs, name)
    if not (isinstance(inputs, Mapping | list | tuple | str | bytes) or _is_array(inputs)):
        return inputs
    named = named_inputs(inputs, model.accepted_inputs, name)
    check_values(model, named)
    _check_labels(model, labels, weights)
    return named


def check_values(model: Any, inputs: Mapping[str, Any]) -> None:
    """Checks that ids and positions are within the model's ranges.

    Args:
        model: a `LanguageModel`.
        inputs: arrays or tensors by our names.

    Raises:
        InputError: one is not; the message names it.
    """
    config = model.config
    length = inputs[_needed(model.accepted_inputs)[0]].shape[-1]
    segments = getattr(config, "num_segments", None)  # a model without them does not use their ids
    mend = "; pairs of texts need a model that has 2" if segments == 1 else ""
    in_row = (length, f"the rows are {length} tokens long")
    size = config.vocabulary_size
    in_vocabulary = (size, f"the model has {size} tokens (vocabulary_size)")
    ranges = {
        "token_ids": in_vocabulary,
        "encoder_token_ids": in_vocabulary,
        "decoder_token_ids": in_vocabulary,
        "position_ids": (
            config.max_sequence_length,
            "the model has no further positions (max_sequence_length)",
        ),
        "masked_positions": in_row,
        "first_positions": in_row,
    }
    if segments is not None:
        ranges["segment_ids"] = (segments, f"the model's num_segments is {segments}{mend}")
    for name, (count, said) in ranges.items():
        if name not in inputs:
            continue
        values = _on_host(inputs[name])
        if values.dtype.kind == "f" and (broken := values[values != np.floor(values)]).size:
            raise InputError(f"{name} holds {broken.flat[0]:g}, which is no whole number")
        if (wrong := _out_of_range(values, count)) is not None:
            raise InputError(f"{name} holds {wrong}, which is not in 0 to {count - 1}: {said}")


def _out_of_range(values: np.ndarray, count: int) -> int | None:
    """Returns a value that is not in 0 to count - 1, or None."""
    if not values.size:
        return None
    lowest, highest = values.min(), values.max()
    return int(lowest) if lowest < 0 else int(highest) if highest >= count else None


def _on_host(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else np.asarray(ops.convert_to_numpy(values))


def _check_labels(model: Any, labels: Any, weights: Any) -> None:
    """Checks that the labels which count are classes of the model, where its loss takes classes."""
    if any(map(holds_text, labels.values() if isinstance(labels, Mapping) else [labels])):
        raise InputError(
            "the labels are texts: give numbers of classes, or texts and labels in a kerasllm.TextClassificationData"
        )
    losses = getattr(model, "loss", None)
    for name, count in model.label_counts.items():
        loss, own, given = (
            part.get(name) if isinstance(part, Mapping) else part for part in (losses, labels, weights)
        )
        if own is None or not _takes_classes(loss):
            continue
        values = _on_host(own)
        if values.dtype.kind in _WHOLE:
            counts = values != IGNORED_LABEL
            if given is not None:
                rows = _on_host(given)
                rows = rows.reshape(rows.shape + (1,) * (values.ndim - rows.ndim))
                counts = counts & (rows != 0) if rows.ndim == values.ndim else counts
            if (wrong := _out_of_range(values[counts], count)) is not None:
                what = "classes" if name in ("classes", "next_sentence") else "tokens"
                raise InputError(
                    f"the labels hold {wrong}, the model has {count} {what}, 0 to {count - 1}; give a label that is "
                    f"not to count a weight of 0, or {IGNORED_LABEL}"
                )


def _takes_classes(loss: Any) -> bool:
    """Returns whether a loss takes the numbers of classes."""
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return loss.ignore_class is None
    return bool(getattr(loss, "takes_classes", False))
