"""One process of the benchmark of several: trains a GPT on its rows, and prints seconds a step and memory as JSON.

`distributed.py` starts it. Without the variables of a run of several processes it trains alone
on as many rows as it is told.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import keras
import numpy as np
from clocks import peak_memory
from works import SMALL_GPT

import kerasllm
from kerasllm import backend
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.fit import own_share
from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
from kerasllm.training.optimization.optimizers import adamw

LENGTH, VOCABULARY, WARM_UP = 128, 8192, 2


class Clock(keras.callbacks.Callback):
    """Notes when each step has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reads the loss, for which the step must have ended."""
        float((logs or {})["loss"])
        self.times.append(time.perf_counter())


def measure(rows: int, steps: int, mesh: list[int]) -> dict[str, float]:
    """Returns the median seconds of a step after the first ones, and the bytes of this process: peak and lasting."""
    if backend.join()[1] > 1:
        kerasllm.distribute(*mesh)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY - 1, 200_000).astype(np.uint16)
    stream = TokenStream(tokens, np.array([0]), vocabulary_size=VOCABULARY, end_id=VOCABULARY - 1)
    batches = CausalBatches(
        stream, context_length=LENGTH, batch_size=rows, steps=steps + WARM_UP, seed=0, normalize_weights=True
    )
    batches.set_share(own_share(2))  # the weights are divided by their sum already
    config = kerasllm.GPTConfig(**SMALL_GPT, vocabulary_size=VOCABULARY, max_sequence_length=LENGTH)
    model = kerasllm.GPTCausalLM(config, seed=0)
    CausalLanguageModeling().compile(
        model, adamw(1e-4), normalized_weights=True, jit_compile=choose_compilation(None, FROM_STEPS)
    )
    clock = Clock()
    model.fit(batches, shuffle=False, verbose=0, callbacks=[clock])
    seconds = np.diff(clock.times[WARM_UP - 1 :])
    median = statistics.median(seconds.tolist())
    return {"step_seconds": median, "peak_bytes": peak_memory(), "state_bytes": held(model)}


def held(model: keras.Model) -> int:
    """Returns the bytes of the weights and the optimizer's state that lie in this process."""
    values = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
    parts = [
        [shard.data for shard in getattr(value, "addressable_shards", ())] or [value] for value in values
    ]
    return sum(part.nbytes for some in parts for part in some)


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))), flush=True)
