"""Many short fine-tunings of one shape, for comparisons: compiled once, then started again and again.

A compilation costs seconds, a small fine-tuning not many more. So one model is compiled for each learning
rate, and every run puts initial weights, optimizer and dropout back to their start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasllm import backend
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.tasks.classification import predict_in_order
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay


class RepeatedFineTuning:
    """Fine-tunes a classifier from given initial weights, as often as asked, at one learning rate.

    Args:
        model: of the shape of all arms; its weights are overwritten.
        make_batches: from a seed to the training batches, all of the same number and shapes.
        learning_rate: peak of a linear schedule with a tenth of warm-up.
    """

    def __init__(
        self, model: Any, make_batches: Callable[[int], ClassificationBatches], learning_rate: float
    ) -> None:
        steps = make_batches(0).steps
        schedule = LinearWarmupDecay(learning_rate, steps=steps, warmup=max(steps // 10, 1))
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        model.compile(optimizer=adamw(schedule), loss=loss, jit_compile=backend.jit_compile)
        model.optimizer.build(model.trainable_variables)
        self.model = model
        self.make_batches = make_batches
        self._optimizer_start = [
            keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables
        ]

    def run(self, initial: Any, seed: int) -> Any:
        """The model after fine-tuning from the weights and generators of `initial`, with the data of `seed`."""
        for target, source in zip(self.model.variables, initial.variables, strict=True):
            target.assign(keras.ops.convert_to_numpy(source))
        for variable, value in zip(self.model.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(value)
        self.model.fit(self.make_batches(seed), epochs=1, shuffle=False, verbose=0)
        return self.model


def accuracy(model: Any, batches: ClassificationBatches) -> float:
    """Share of the texts whose highest-scored class is the right one."""
    predicted = predict_in_order(model, batches).argmax(axis=1)
    return float(np.mean(predicted == batches.labels))
