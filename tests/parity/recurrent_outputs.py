"""Runs recurrent models under one backend. Arguments: the directory of data and models; the file for the results."""

import json
import sys
from pathlib import Path

import numpy as np
from gpt_curves import VOCABULARY, stream
from keras import ops

from kerasllm import RecurrentConfig, RecurrentLM
from kerasllm.data.batches.lanes import LaneBatches
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.optimization.optimizers import adamw


def curve(cell: str) -> list[float]:
    """The losses of a training with carried state, locked dropout and dropped weights."""
    shape = {"num_layers": 2, "hidden_dim": 24, "embedding_dim": 24, "dropout": 0.1, "weight_drop": 0.2}
    model = RecurrentLM(RecurrentConfig(vocabulary_size=VOCABULARY, cell=cell, **shape), seed=4)
    model.carry_state(training_rows=12)
    CausalLanguageModeling().compile(model, adamw(2e-2))
    batches = LaneBatches(stream(), context_length=16, batch_size=12, steps=40, seed=2)
    return [float(model.train_on_batch(*batches[index])) for index in range(len(batches))]


def main(directory: Path, output: Path) -> None:
    ids = np.load(directory / "ids.npy")
    outputs = {}
    for path in sorted(directory.glob("*/config.json")):
        model = RecurrentLM.from_pretrained(path.parent)
        outputs[path.parent.name] = ops.convert_to_numpy(model({"token_ids": ids}))
        model.save_pretrained(output.with_suffix("") / path.parent.name)
    np.savez(output, **outputs)
    output.with_suffix(".json").write_text(json.dumps({"lstm": curve("lstm")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
