"""Models trained under one backend, saved, and taken up under another: weights, evaluation, fine-tuning.

Arguments: `write RUN` trains a little and saves RUN/model; `read FILE RUN …` loads each run, and writes by its
directory's name the hashes of its weights, its evaluation and the losses of 20 steps of fine-tuning.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

import kerasllm
from kerasllm.errors import InputWarning

VOCABULARY, LENGTH, BATCH = 50, 12, 4
SHAPE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": LENGTH, "dropout": 0.1}
SHAPE["vocabulary_size"] = VOCABULARY


def data(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    tokens = random.integers(5, VOCABULARY, (rows, LENGTH + 1)).astype("int32")
    mask = (np.arange(LENGTH) < random.integers(6, LENGTH + 1, (rows, 1))).astype("int32")
    return {
        "bert": {"token_ids": tokens[:, :-1] * mask, "padding_mask": mask},
        "gpt": {"token_ids": tokens[:, :-1]},
        "next": tokens[:, 1:],
        "parity": tokens[:, 0] % 2,
        "class": tokens[:, 0] % 3,
    }


def losses(model, loss, inputs, labels, steps: int) -> list[float]:
    """Of each step on its own; TensorFlow runs them as they stand, which compiles nothing."""
    eagerly = keras.backend.backend() == "tensorflow"
    model.compile(keras.optimizers.AdamW(2e-3), loss, run_eagerly=eagerly)
    model.per_step_metrics = True
    found = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: found.append(float(logs["loss"]))
    )
    model.fit(inputs, labels, batch_size=BATCH, epochs=1, shuffle=False, verbose=0, callbacks=[keep])
    assert len(found) == steps
    return found


def classes():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def write(run: Path) -> None:
    rows = data(6 * BATCH, 1)
    bert = kerasllm.BertClassifier(kerasllm.BertConfig(**SHAPE), num_classes=2, seed=3)
    gpt = kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SHAPE), seed=3)
    losses(bert, classes(), rows["bert"], rows["parity"], 6)
    losses(gpt, kerasllm.CausalLanguageModelLoss(), rows["gpt"], rows["next"], 6)
    for name, model in (("bert", bert), ("gpt", gpt)):
        model.save_pretrained(run / name / "model")
    (run / "found.json").write_text(
        json.dumps({name: looked_at(m) for name, m in (("bert", bert), ("gpt", gpt))})
    )


def looked_at(model) -> dict:
    """Hashes of the weights, and the loss of other data."""
    held, causal = data(5, 2), isinstance(model, kerasllm.GPTCausalLM)
    loss = kerasllm.CausalLanguageModelLoss() if causal else classes()
    model.compile(loss=loss, run_eagerly=keras.backend.backend() == "tensorflow")
    inputs, labels = (held["gpt"], held["next"]) if causal else (held["bert"], held["parity"])
    values = {name: keras.ops.convert_to_numpy(v) for name, v in model.named_variables().items()}
    return {
        "weights": {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in values.items()},
        "evaluated": model.evaluate(inputs, labels, batch_size=5, verbose=0, return_dict=True)["loss"],
    }


def read(run: Path) -> dict:
    rows = data(20 * BATCH, 4)
    found = {
        "bert": looked_at(kerasllm.BertClassifier.from_pretrained(run / "bert")),
        "gpt": looked_at(kerasllm.GPTCausalLM.from_pretrained(run / "gpt")),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # a new head, as it is asked for
        bert = kerasllm.BertClassifier.from_pretrained(run / "bert", num_classes=3, dropout=0.0, seed=9)
    gpt = kerasllm.GPTCausalLM.from_pretrained(run / "gpt", dropout=0.0, seed=9)
    found["bert"]["tuned"] = losses(bert, classes(), rows["bert"], rows["class"], 20)
    found["gpt"]["tuned"] = losses(gpt, kerasllm.CausalLanguageModelLoss(), rows["gpt"], rows["next"], 20)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        Path(sys.argv[2]).write_text(json.dumps({Path(run).name: read(Path(run)) for run in sys.argv[3:]}))
