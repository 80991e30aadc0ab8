"""Writes a SavedModel that takes texts, on TensorFlow with tensorflow-text, and compares it; run by a test."""

import json
import sys
from pathlib import Path

import numpy as np

import kerasllm
from kerasllm.export.samples import TEXTS
from kerasllm.export.saved_model import write_saved_model

SIZES = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "max_sequence_length": 64,
    "initializer_range": 0.3,
}
reports = {}
for lowercase in (False, True):
    tokenizer = kerasllm.train_wordpiece(TEXTS, vocabulary_size=150, lowercase=lowercase)
    config = kerasllm.BertConfig(vocabulary_size=150, **SIZES)
    directory = Path(sys.argv[1]) / str(lowercase)
    directory.mkdir()
    model = kerasllm.BertClassifier(config, num_classes=3, seed=0)
    reports[str(lowercase)] = write_saved_model(model, tokenizer, directory)
Path(sys.argv[1], "reports.json").write_text(json.dumps(reports))
assert np.isfinite(reports["False"]["comparison"]["greatest_difference"])
