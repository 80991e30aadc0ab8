"""The outputs of a model for a whole data set, in the order of the texts."""

import math
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
    if batches.start_step:
        raise ValueError(f"the batches start at step {batches.start_step}: some texts would be left out")
    results: np.ndarray | None = None
    size = batches.batch_size
    for step in range(batches.steps_per_epoch):
        whole = batches.batch(step)[0]
        for part in range(batches.gradient_accumulation):
            texts = batches.order[step * batches.gradient_accumulation + part]
            inputs = {name: array[part * size : (part + 1) * size] for name, array in whole.items()}
            if isinstance(model, LanguageModel):
                check_values(model, inputs)
            outputs = np.asarray(model.predict_on_batch(inputs)).astype(np.float32)
            if results is None:
                results = np.zeros((len(batches.encoded), *outputs.shape[1:]), np.float32)
            results[texts[texts >= 0]] = outputs[texts >= 0]
    assert results is not None  # there is no empty data set
    return results


def finite(value: Any) -> float | None:
    """Returns a number as a float, or None if it is NaN or infinite, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
