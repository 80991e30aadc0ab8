"""A tiny run with validation and checkpoints, of which process 1 may die in a validation.

Arguments: the run directory, the steps, and the number of the validation in which it dies, 0 for none.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerasllm import GPTCausalLM, GPTConfig, backend, cli, distribute, processes
from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.callbacks.number_guard import GuardOptions
from kerasllm.training.fit import fit_run
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.run.directory import RunDirectory

SHAPE = {"vocabulary_size": 30, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}


class Batches(CausalBatches):
    """Windows, of which the last row of the second step has a label that is no token."""

    def batch(self, step, rows=slice(None)):
        inputs, labels, weights = super().batch(step, rows)
        if step == 1:
            labels[-1, -1], weights[-1, -1] = 99, 1
        return inputs, labels, weights


def train(output, steps, *, resume=False, dies_at=0):
    """Trains up to a step and returns the result of `fit_run`."""
    tokens = np.random.default_rng(0).integers(0, 29, 3000).astype("uint16")
    stream = TokenStream(tokens, np.array([0]), vocabulary_size=30, end_id=29)
    settings = {"context_length": 12, "within_documents": True}
    held_out = CausalEvaluationBatches(stream, batch_size=5, limit=1, **settings)
    validations = []

    def evaluate(model):
        validations.append(1)
        if len(validations) == dies_at and not processes.is_first():
            os.kill(os.getpid(), signal.SIGKILL)
        return CausalLanguageModeling().evaluate(model, held_out)

    def batches(start_step):
        return Batches(stream, batch_size=4, steps=steps, seed=0, start_step=start_step, **settings)

    model = GPTCausalLM(GPTConfig(**SHAPE, dropout=0.1), seed=0)
    summed = backend.sums_gradients and backend.share()[1] > 1
    CausalLanguageModeling().compile(model, adamw(1e-2, clip_norm=0.5), normalized_weights=summed)
    with RunDirectory.create(output, {"output": str(output)}, resume=resume) as run:
        return fit_run(
            model,
            batches,
            run,
            steps=steps,
            tokens_per_step=48,
            checkpoint_steps=2,
            evaluate=evaluate,
            eval_interval=2,
            resume=resume,
            guard=GuardOptions(non_finite="skip"),
        )


@dataclass(kw_only=True)
class Config:
    """Trains.

    Args:
        output: the run directory.
        dies_at: the validation in which process 1 dies.
        fsdp: processes among which weights are divided.
    """

    output: Path
    dies_at: int = 0
    fsdp: int = 1


def main(config):
    number, count = distribute(2 // config.fsdp, config.fsdp)
    print(f"{number} of {count}", flush=True)
    train(config.output, 4, dies_at=config.dies_at)


if __name__ == "__main__":
    cli.run(main, Config, sys.argv[1:])
