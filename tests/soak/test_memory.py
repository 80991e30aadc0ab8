"""Runs one after the other in one process, as a notebook has them."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SMALL = """
import json, os, sys
import keras, numpy as np
from kerasllm import GPTCausalLM, GPTConfig, backend
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.fit import fit_run
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.run.directory import RunDirectory

if backend.name == "tensorflow":
    import tensorflow
    backend.jit_compile = False
    tensorflow.config.run_functions_eagerly(True)
"""


def python(code: str, *arguments, **settings) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "random",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-c", SMALL + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, **settings)


def test_ten_runs_in_one_process_do_not_fill_the_memory(tmp_path):
    """From the third to the tenth: each a new model, log and checkpoints; the resident memory stays within 5 %."""
    done = python(
        """
        import gc
        random = np.random.default_rng(0)
        shape = {"vocabulary_size": 30, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
        tokens = random.integers(0, 29, 5000).astype("uint16")

        def batches(start_step):
            stream = TokenStream(tokens, np.array([0]), vocabulary_size=30, end_id=29)
            return CausalBatches(
                stream, context_length=16, batch_size=4, steps=6, seed=0, start_step=start_step
            )

        sizes = []
        for number in range(10):
            keras.utils.clear_session()
            model = GPTCausalLM(GPTConfig(**shape), seed=0)
            CausalLanguageModeling().compile(model, adamw(1e-3))
            with RunDirectory.create(f"{sys.argv[1]}/{number}", {"steps": 6}) as run:
                fit_run(model, batches, run, steps=6, tokens_per_step=64, checkpoint_steps=2)
            del model
            gc.collect()
            with open("/proc/self/statm") as file:
                sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
        print(json.dumps(sizes))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sizes = json.loads(done.stdout.splitlines()[-1])
    assert max(sizes[2:]) < 1.05 * sizes[2], sizes
