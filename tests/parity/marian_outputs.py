"""Loads a Marian that transformers saved, under one backend: logits and targets to a file, the model saved again.

Arguments: the directory that `test_marian_transformers.py` has prepared, and a directory for the results.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from kerasllm import Seq2SeqLM
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings, generate_targets


def main(prepared: Path, results: Path) -> None:
    data = dict(np.load(prepared / "data.npz"))
    sources = json.loads((prepared / "sources.json").read_text())
    model = Seq2SeqLM.from_pretrained(prepared / "marian")
    logits = keras.ops.convert_to_numpy(model(data))
    found = {}
    for beams in (1, 5):
        settings = TargetSettings(Settings(num_beams=beams, max_new_tokens=10), max_ratio=None)
        found[beams] = [own[0].tokens for own in generate_targets(model, sources, settings)]
    attention = keras.ops.convert_to_numpy(model.backbone.cross_attention(data))
    np.savez(results / "logits.npz", logits=logits, attention=attention)
    (results / "targets.json").write_text(json.dumps(found))
    model.save_pretrained(results / "marian")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
