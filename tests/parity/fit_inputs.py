"""Plain `fit` of a tiny classifier under one backend, on the same batches in four containers.

Argument: the file for the losses of each step, JSON by kind of container.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow
import torch

from kerasllm import BertClassifier, BertConfig

ROWS, BATCH, EPOCHS = 12, 4, 4


def arrays() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs and labels; many tokens occur more than once in a batch."""
    random = np.random.default_rng(0)
    ends = random.integers(5, 9, (ROWS, 1))
    tokens = random.integers(5, 40, (ROWS, 8))
    mask = (np.arange(8) < ends).astype("int32")
    inputs = {"token_ids": (tokens * mask).astype("int32"), "padding_mask": mask}
    return inputs, random.integers(0, 3, ROWS).astype("int32")


class Batches(keras.utils.PyDataset):
    """The arrays, four rows at a time."""

    def __len__(self):
        return ROWS // BATCH

    def __getitem__(self, index):
        inputs, labels = arrays()
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return {name: value[rows] for name, value in inputs.items()}, labels[rows]


class Rows(torch.utils.data.Dataset):
    """The arrays, row by row."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        inputs, labels = arrays()
        return {name: value[index] for name, value in inputs.items()}, labels[index]


def containers() -> dict[str, dict]:
    """Arguments of `fit`."""
    inputs, labels = arrays()
    return {
        "numpy": {"x": inputs, "y": labels, "batch_size": BATCH},
        "pydataset": {"x": Batches()},
        "tf.data": {"x": tensorflow.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH)},
        "torch": {"x": torch.utils.data.DataLoader(Rows(), batch_size=BATCH)},
    }


class Losses(keras.callbacks.Callback):
    """The running mean after each step."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


def main(path: Path) -> None:
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 8, "dropout": 0.1}
    found = {}
    for kind, data in containers().items():
        model = BertClassifier(BertConfig(vocabulary_size=40, **shape), num_classes=3, seed=5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(2e-2), loss)
        recorder = Losses()
        model.fit(**data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[recorder])
        found[kind] = recorder.losses
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
