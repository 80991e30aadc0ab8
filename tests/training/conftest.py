"""A model small enough to train in each test, with what makes resuming hard: dropout, optimizer state."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest


class PureBatches(keras.utils.PyDataset):
    """Every batch a function of seed and position alone, whole run from `start`."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int):
        random = np.random.default_rng([3, self.start + index])
        inputs = random.normal(size=(4, 6)).astype("float32")
        return inputs, inputs.sum(axis=1, keepdims=True)


def build(seeded: bool = True, accumulation: int | None = None, schedule: bool = True) -> keras.Model:
    """Compiled and built, initial values the same each time."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dropout(0.4, seed=11 if seeded else None),
            keras.layers.Dense(5),
            keras.layers.Dropout(0.2, seed=12 if seeded else None),
            keras.layers.Dense(1),
        ]
    )
    random = np.random.default_rng(5)
    model.set_weights([random.normal(size=w.shape).astype("float32") * 0.3 for w in model.weights])
    rate = keras.optimizers.schedules.PolynomialDecay(0.05, 20) if schedule else 0.01
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, gradient_accumulation_steps=accumulation), loss="mse"
    )
    return model


def train(model: keras.Model, start: int, stop: int, callbacks, accumulation: int = 1) -> None:
    """As the recipes do: one call of `fit` for all that remains."""
    batches = PureBatches(start * accumulation, stop * accumulation)
    model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)


def arrays(model: keras.Model) -> list[np.ndarray]:
    """Everything that training changes: weights, seed generators, optimizer."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in [*model.variables, *model.optimizer.variables]]


@pytest.fixture
def small() -> SimpleNamespace:
    """`build`, `train`, `arrays` and `batches`."""
    return SimpleNamespace(build=build, train=train, arrays=arrays, batches=PureBatches)
