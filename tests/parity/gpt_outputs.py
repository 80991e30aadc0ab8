"""Loads what transformers saved, under one backend: logits to a file, every model saved again.

Those that `searches.json` names also give hidden states, a loss, a text by each search, and their backbone.
Arguments: the directory that `test_gpt_transformers.py` has prepared, and a directory for the results.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from kerasllm import CausalLanguageModelLoss, GPTCausalLM


def main(prepared: Path, results: Path) -> None:
    ids = np.load(prepared / "ids.npy")
    searches = json.loads((prepared / "searches.json").read_text())
    for directory in sorted(path for path in prepared.iterdir() if path.is_dir()):
        model = GPTCausalLM.from_pretrained(directory)
        logits = keras.ops.convert_to_numpy(model({"token_ids": ids}))
        model.save_pretrained(results / directory.name)
        if directory.name not in searches:
            np.savez(results / f"{directory.name}.npz", logits=logits)
            continue
        model.compile("sgd", loss=CausalLanguageModelLoss(chunk_size=9))
        hidden = keras.ops.convert_to_numpy(model.backbone({"token_ids": ids})["sequence_output"])
        loss = model.test_on_batch({"token_ids": ids[:, :-1]}, ids[:, 1:])
        own = searches[directory.name].items()
        texts = {name: model.generate(ids[:, :6], **settings) for name, settings in own}
        np.savez(results / f"{directory.name}.npz", logits=logits, hidden=hidden, loss=loss, **texts)
        model.backbone.save_pretrained(results / f"{directory.name}_backbone")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
