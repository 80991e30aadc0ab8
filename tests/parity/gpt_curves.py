"""Trains tiny GPTs under one backend. Argument: the file for the losses of each step, JSON by kind of model."""

import json
import sys
from pathlib import Path

import numpy as np

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import CosineWarmupDecay

STEPS, VOCABULARY = 40, 60
SHAPE = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 32}
LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "num_key_value_heads": 2,
    "use_bias": False,
}


def stream() -> TokenStream:
    """Documents in which each token is followed by one of three."""
    random = np.random.default_rng(3)
    tokens = np.zeros(6000, np.uint16)
    for place in range(1, len(tokens)):
        tokens[place] = (tokens[place - 1] * 7 + random.integers(1, 4)) % (VOCABULARY - 1)
    tokens[random.integers(0, len(tokens), 60)] = VOCABULARY - 1
    tokens[-1] = VOCABULARY - 1
    starts = np.flatnonzero(np.concatenate([[True], tokens[:-1] == VOCABULARY - 1]))
    return TokenStream(tokens, starts.astype(np.int64), VOCABULARY, VOCABULARY - 1)


def curve(accumulation: int, within_documents: bool, lora_rank: int = 0, **options) -> list[float]:
    """The loss of each batch."""
    shape = GPTConfig(**SHAPE | options, max_sequence_length=24)
    model = GPTCausalLM(shape, lora_rank=lora_rank, seed=4)
    schedule = CosineWarmupDecay(
        1e-2, minimum=1e-3, steps=STEPS, warmup=4, gradient_accumulation=accumulation
    )
    CausalLanguageModeling().compile(
        model, adamw(schedule, gradient_accumulation=accumulation), normalized_weights=accumulation > 1
    )
    batches = CausalBatches(
        stream(),
        context_length=24,
        batch_size=8 // accumulation,
        steps=STEPS,
        seed=2,
        gradient_accumulation=accumulation,
        within_documents=within_documents,
    )
    return [float(model.train_on_batch(*batches[index])) for index in range(len(batches))]


def main(path: Path) -> None:
    found = {
        "gpt2": curve(1, False, dropout=0.1),
        "llama": curve(2, True, dropout=0.1, **LLAMA),
        "lora": curve(1, False, lora_rank=4),
    }
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
