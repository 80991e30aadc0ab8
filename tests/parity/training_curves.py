"""Trains a tiny BERT under one backend, and goes on from the checkpoints of others.

Arguments: `train DIRECTORY` writes DIRECTORY/curves.json and the runs DIRECTORY/without and DIRECTORY/with;
`resume DIRECTORY OTHER …` goes on to step 30 from the step-10 checkpoints of each OTHER, without dropout and with
it, and writes DIRECTORY/OTHER'S_NAME.json.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from kerasllm import BertConfig, BertPretraining
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.token_cache.store import TokenStore
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.training.callbacks.metrics_log import read_metrics
from kerasllm.training.fit import fit_run
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay
from kerasllm.training.run.directory import RunDirectory

STEPS, VOCABULARY = 50, 80
FIGURES = ("loss", "masked_lm_loss", "next_sentence_loss")
DROPOUTS = {"without": 0.0, "with": 0.1}
SPECIAL = SimpleNamespace(pad=0, unknown=1, cls=2, sep=3, mask=4)


def make_batches(start_step: int, steps: int) -> BertPretrainingBatches:
    """Real pairs and masks over random tokens of unequal frequency."""
    random = np.random.default_rng(7)
    sentences = random.integers(2, 12, 30)
    lengths = random.integers(2, 15, sentences.sum())
    ends = np.cumsum(lengths)
    frequencies = 1 / np.arange(1, VOCABULARY - 4)
    tokens = 5 + random.choice(VOCABULARY - 5, ends[-1], p=frequencies / frequencies.sum())
    store = TokenStore(
        tokens=tokens.astype(np.uint16),
        sentence_starts=ends - lengths,
        sentence_ends=ends,
        document_offsets=np.concatenate([[0], np.cumsum(sentences)]),
        vocabulary_size=VOCABULARY,
    )
    settings = {"sequence_length": 32, "batch_size": 8, "seed": 5}
    return BertPretrainingBatches(store, special=SPECIAL, steps=steps, start_step=start_step, **settings)


def make_model(dropout: float, *, xla: bool = True) -> BertPretraining:
    shape = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "max_sequence_length": 32}
    model = BertPretraining(BertConfig(vocabulary_size=VOCABULARY, dropout=dropout, **shape), seed=11)
    compilation = False if not xla and keras.backend.backend() == "tensorflow" else None
    optimizer = adamw(LinearWarmupDecay(3e-3, steps=STEPS, warmup=5))
    MaskedLanguageModeling().compile(model, optimizer, jit_compile=compilation)
    return model


def train(path: Path, dropout: float, *, steps: int = STEPS, resume: bool = False) -> list[list[float]]:
    """The FIGURES of all steps so far, from metrics.jsonl."""
    with RunDirectory.create(path, {"dropout": dropout}, resume=resume) as run:
        fit_run(
            make_model(dropout, xla=not resume),  # `train` compiles the step as users do
            lambda start_step: make_batches(start_step, steps),
            run,
            steps=steps,
            tokens_per_step=256,
            log_interval=1,
            checkpoint_steps=10,
            keep=10,
            resume=resume,
        )
    return [[line[name] for name in FIGURES] for line in read_metrics(path / "metrics.jsonl")]


def main(task: str, directory: Path, others: list[Path]) -> None:
    if task == "train":
        weights = {
            name: hashlib.sha256(keras.ops.convert_to_numpy(variable).tobytes()).hexdigest()
            for name, variable in make_model(0.1).named_variables().items()
        }
        curves = {name: train(directory / name, dropout) for name, dropout in DROPOUTS.items()}
        (directory / "curves.json").write_text(json.dumps({"weights": weights, "curves": curves}))
        return
    for other in others:
        losses = {}
        for name, dropout in DROPOUTS.items():
            copy = directory / f"{name}_from_{other.name}"
            shutil.copytree(other / name, copy)
            for checkpoint in (copy / "checkpoints").iterdir():
                if checkpoint.name != "step-00000010":
                    shutil.rmtree(checkpoint)
            losses[name] = train(copy, dropout, steps=30, resume=True)
        (directory / f"{other.name}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
