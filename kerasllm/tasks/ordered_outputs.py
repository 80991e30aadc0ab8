"""The outputs of a model for a whole data set, in the order of the texts."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from kerasllm.models.base import LanguageModel
from kerasllm.models.inputs import check_values


def predict_in_order(model: Any, batches: Any) -> np.ndarray:
    """Returns a model's outputs for all texts, float32 (texts, ...), in the order of the texts.

    Args:
        model: a classifier, which returns (batch, classes), or a regressor, which returns (batch,).
        batches: padded batches that start at step 0, of which one epoch is used; best with `shuffle=False`.

    Raises:
        ValueError: the batches start at a later step.
        InputError: a token or a segment is none of the model's.
    """
    results: np.ndarray | None = None
    for texts, inputs in _in_order(model, batches):
        outputs = np.asarray(model.predict_on_batch(inputs)).astype(np.float32)
        if results is None:
            results = np.zeros((len(batches.encoded), *outputs.shape[1:]), np.float32)
        results[texts[texts >= 0]] = outputs[texts >= 0]
    assert results is not None  # there is no empty data set
    return results


def predict_tokens(model: Any, batches: Any) -> np.ndarray:
    """Returns a model's outputs for all tokens, float32 (tokens, ...), in the order of `batches.encoded.token_ids`.

    Args:
        model: a model that returns (batch, length, ...), such as a token classifier.
        batches: padded batches as for `predict_in_order`.

    Raises:
        ValueError: the batches start at a later step.
    """
    encoded = batches.encoded
    results: np.ndarray | None = None
    for texts, inputs in _in_order(model, batches):
        outputs = np.asarray(model.predict_on_batch(inputs)).astype(np.float32)
        if results is None:
            results = np.zeros((len(encoded.token_ids), *outputs.shape[2:]), np.float32)
        for text, row in zip(texts, outputs, strict=True):
            if text >= 0:
                start, end = encoded.offsets[text : text + 2]
                results[start:end] = row[: end - start]
    assert results is not None  # there is no empty data set
    return results


def _in_order(model: Any, batches: Any) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields the indices of the texts of each micro-batch of an epoch, -1 for an empty row, and the inputs."""
    if batches.start_step:
        raise ValueError(f"the batches start at step {batches.start_step}: some texts would be left out")
    size = batches.batch_size
    for step in range(batches.steps_per_epoch):
        whole = batches.batch(step)[0]
        for part in range(batches.gradient_accumulation):
            rows = slice(part * size, (part + 1) * size)
            texts = batches.order[step * batches.gradient_accumulation + part]
            inputs = {name: array[rows] for name, array in whole.items()}
            if isinstance(model, LanguageModel):
                check_values(model, inputs)
            yield texts, inputs


def finite(value: Any) -> float | None:
    """Returns a number as a float, or None if it is NaN or infinite, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
