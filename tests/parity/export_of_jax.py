"""Exports models under the backend of this process; TensorFlow must serve them, at any length.

Argument: a directory, in which `differences.json` is written.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow

import kerasllm

directory = Path(sys.argv[1])
SHAPE = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
numbers = np.random.default_rng(0)
differences = {}
for model in (
    kerasllm.BertClassifier(kerasllm.BertConfig(**SHAPE), num_classes=3, seed=0),  # with the exact GELU
    kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SHAPE), seed=0),
):
    name = type(model).__name__
    model.predict({"token_ids": numbers.integers(5, 40, (2, 6))}, verbose=0)
    model.export(directory / name, verbose=False)
    served = tensorflow.saved_model.load(str(directory / name))
    found = []
    for shape in ((3, 6), (2, 9), (1, 16)):
        ids = numbers.integers(5, 40, shape).astype("int32")
        ours = np.asarray(model({"token_ids": ids}))
        found.append(float(np.abs(served.serve({"token_ids": ids}).numpy() - ours).max()))
    differences[name] = max(found)
(directory / "differences.json").write_text(json.dumps(differences))
