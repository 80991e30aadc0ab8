"""One measurement of the benchmark on Keras: kerasllm or KerasHub, in a process of its own.

KERAS_BACKEND=jax python recipes/benchmark_case.py --work bert --peer kerasllm ...

Prints a line of JSON. `recipes/benchmark.py` runs it, with the sizes of its works.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from kerasllm import (
    BertConfig,
    BertPretraining,
    GPTCausalLM,
    GPTConfig,
    cli,
)  # tells if Keras lacks its backend

# isort: split
import keras
import numpy as np

from kerasllm import backend
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.token_cache.store import TokenStore
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.files.json import to_json
from kerasllm.tasks.causal_lm import compile_causal
from kerasllm.tasks.masked_lm import compile_pretraining
from kerasllm.tokenizers.wordpiece import SpecialTokens
from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
from kerasllm.training.hardware.throughput import matrix_product_peak, training_flops
from kerasllm.training.optimization.optimizers import adamw

WARM_UP = 3
TOKENS = 500_000


@dataclass
class Config:
    """Measures one library at one work, on random tokens."""

    work: Literal["bert", "packing", "gpt", "shakespeare", "generation"]
    """BERT's step (packing: with short pairs), a GPT's (shakespeare: of characters), or greedy generation."""

    peer: Literal["kerasllm", "kerasllm_all_logits", "kerasllm_padded", "keras_hub"]
    """The library; kerasllm_all_logits has no chunked loss, kerasllm_padded one short pair a row."""

    num_layers: int
    """Blocks."""

    num_heads: int
    """Attention heads of a block."""

    hidden_dim: int
    """Width; the feed-forward network has four times as much."""

    vocabulary_size: int
    """Tokens."""

    length: int
    """Tokens of a row, or of a prompt."""

    batch_size: int
    """Rows."""

    slots: int = 0
    """Masked tokens of a row (bert)."""

    new_tokens: int = 0
    """Tokens to generate (generation)."""

    dropout: float = 0.0
    """Of embeddings, residuals and attention."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Keras' dtype policy."""

    steps: int = 8
    """Measured steps, or calls of generate, after those that warm up."""


class StepTimes(keras.callbacks.Callback):
    """When each step was done. Keras waits for a step's loss before it calls, in a thread of its own or not."""

    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self.began = 0.0
        self.ends: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())


class Waiting(keras.utils.PyDataset):
    """Batches, and the seconds that each was waited for; on TensorFlow by its pipeline, while training may go on."""

    def __init__(self, batches: Any) -> None:
        super().__init__()
        self.batches, self.seconds = batches, [0.0] * len(batches)
        self.tokens = [0] * len(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        """Batch `index`."""
        began = time.perf_counter()
        batch = self.batches[index]
        self.seconds[index] = time.perf_counter() - began
        inputs = batch[0]
        real = inputs.get("padding_mask", inputs.get("sequence_ids", inputs["token_ids"]) >= 0)
        self.tokens[index] = int(real.sum())
        return batch


def main(config: Config) -> None:
    """Measures, then prints."""
    keras.config.set_dtype_policy(config.precision)
    if config.work == "generation":
        generate = generation_of_hub(config) if config.peer == "keras_hub" else generation(config)
        figures = time_calls(generate, config)
    elif config.peer == "keras_hub":
        figures = train_hub(config)
    else:
        figures = train(config)
    figures["peak_bytes"] = peak_memory()
    if config.work != "generation":
        figures["peak_flops"] = matrix_product_peak(config.precision)  # after the memory was read
    versions = {"keras": keras.__version__, keras.backend.backend(): str(backend.version())}
    versions |= {package: metadata.version(package) for package in backend.libraries()}
    print(to_json(figures | {"versions": versions}), flush=True)


def peak_memory() -> int:
    """Bytes of resident memory at most. What the system's counter holds a process inherits from its parent."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def train(config: Config) -> dict[str, Any]:
    """Ours: the recipes' own compilation and batches, and plain `fit`."""
    model: Any
    batches: Any
    steps = WARM_UP + config.steps
    compiled = choose_compilation(None, FROM_STEPS)  # as in a run that is long enough to compare
    if config.work in ("bert", "packing"):
        model = BertPretraining(BertConfig(max_sequence_length=config.length, **shape(config)), seed=0)
        compile_pretraining(model, adamw(1e-4), jit_compile=compiled)
        batches = pair_batches(config, steps)
    else:
        model = GPTCausalLM(GPTConfig(max_sequence_length=config.length, **shape(config)), seed=0)
        compile_causal(model, adamw(1e-4), jit_compile=compiled)
        if config.peer == "kerasllm_all_logits":
            model.loss.chunk_size = 0
        batches = windows(config, steps)
    data = Waiting(batches)
    figures = time_fit(model, config, data)
    # Batches are fetched a little ahead: with steps of a millisecond their waits may lie before the steps measured.
    waited = min(sum(data.seconds[WARM_UP:steps]) / max(figures["seconds"], 1e-9), 1.0)
    tokens = float(np.mean(data.tokens[WARM_UP:steps]))
    flops = training_flops(model, config.length, getattr(batches, "num_slots", None))
    return figures | {"tokens": tokens, "waiting": waited, "flops_per_token": flops}


def shape(config: Config) -> dict[str, Any]:
    """What a BERT and a GPT have in common."""
    names = ("num_layers", "num_heads", "hidden_dim", "vocabulary_size", "dropout")
    return {name: getattr(config, name) for name in names}


def pair_batches(config: Config, steps: int) -> BertPretrainingBatches:
    """Of documents of random tokens: long enough for full rows, or of two sentences, as long as MRPC's are."""
    sentence = max(config.length // 8, 1)
    ends = np.arange(1, TOKENS // sentence + 1, dtype=np.int64) * sentence
    in_document = 200
    if config.work == "packing":
        lengths = np.clip(np.random.default_rng(0).normal(25, 8, TOKENS // 30).round(), 4, 60)
        ends, in_document = np.cumsum(lengths.astype(np.int64)), 2
    documents = np.append(np.arange(0, len(ends) - 1, in_document, dtype=np.int64), len(ends))
    tokens = random_tokens(config, int(ends[-1]), least=5)
    starts = np.concatenate([[0], ends[:-1]])
    return BertPretrainingBatches(
        TokenStore(tokens, starts, ends, documents, config.vocabulary_size),
        special=SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4),
        sequence_length=config.length,
        batch_size=config.batch_size,
        steps=steps,
        seed=0,
        num_slots=config.slots or None,
        short_sequence_probability=0.0,
        packing=config.work == "packing" and config.peer == "kerasllm",
    )


def windows(config: Config, steps: int) -> CausalBatches:
    """Of a stream of random tokens."""
    stream = TokenStream(
        random_tokens(config, TOKENS),
        np.zeros(1, np.int64),
        config.vocabulary_size,
        config.vocabulary_size - 1,
    )
    return CausalBatches(
        stream, context_length=config.length, batch_size=config.batch_size, steps=steps, seed=0
    )


def random_tokens(config: Config, *size: int, least: int = 0) -> np.ndarray:
    """Of the whole vocabulary."""
    return np.random.default_rng(0).integers(least, config.vocabulary_size, size).astype("uint16")


def train_hub(config: Config) -> dict[str, Any]:
    """KerasHub's model and plain `fit` over arrays; compiled where that pays."""
    import keras_hub

    sizes = {
        "vocabulary_size": config.vocabulary_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "hidden_dim": config.hidden_dim,
        "intermediate_dim": 4 * config.hidden_dim,
        "max_sequence_length": config.length,
        "dropout": config.dropout,
    }
    rows = config.batch_size * (WARM_UP + config.steps)
    tokens = random_tokens(config, rows, config.length).astype("int32")
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    if config.work == "bert":
        model = keras_hub.models.BertMaskedLM(keras_hub.models.BertBackbone(**sizes), preprocessor=None)
        places = np.linspace(1, config.length - 2, config.slots).astype("int32")
        inputs["segment_ids"] = np.repeat([np.arange(config.length) >= config.length // 2], rows, 0).astype(
            "int32"
        )
        inputs["mask_positions"] = np.repeat([places], rows, 0)
        labels = tokens[:, places]
    else:
        model = keras_hub.models.GPT2CausalLM(keras_hub.models.GPT2Backbone(**sizes), preprocessor=None)
        labels = np.roll(tokens, -1, axis=1)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
        jit_compile=True if keras.backend.backend() == "tensorflow" else "auto",
    )
    figures = time_fit(model, config, inputs, labels, batch_size=config.batch_size)
    return figures | {"tokens": float(config.batch_size * config.length)}


def time_fit(model: Any, config: Config, *data: Any, **settings: Any) -> dict[str, Any]:
    """One epoch over the data: seconds to the first step, and of each step after the warm-up."""
    times = StepTimes()
    model.fit(*data, epochs=1, shuffle=False, verbose=0, callbacks=[times], **settings)
    ends = sorted(times.ends)
    durations = np.diff(ends)[WARM_UP - 1 :]
    return {
        "first_seconds": ends[0] - times.began,
        "step_seconds": float(np.median(durations)),
        "seconds": float(np.sum(durations)),
    }


def generation(config: Config) -> Any:
    """Ours, greedy."""
    positions = config.length + config.new_tokens
    model = GPTCausalLM(GPTConfig(max_sequence_length=max(positions, 1024), **shape(config)), seed=0)
    prompts = random_tokens(config, config.batch_size, config.length).astype("int32")
    return lambda: model.generate(prompts, max_new_tokens=config.new_tokens)


def generation_of_hub(config: Config) -> Any:
    """KerasHub's, greedy."""
    import keras_hub

    positions = config.length + config.new_tokens
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=config.vocabulary_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_dim=config.hidden_dim,
        intermediate_dim=4 * config.hidden_dim,
        max_sequence_length=max(positions, 1024),
    )
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    tokens = np.zeros((config.batch_size, positions), "int32")
    tokens[:, : config.length] = random_tokens(config, config.batch_size, config.length)
    mask = np.zeros_like(tokens)
    mask[:, : config.length] = 1
    return lambda: model.generate({"token_ids": tokens, "padding_mask": mask}, stop_token_ids=None)


def time_calls(generate: Any, config: Config) -> dict[str, Any]:
    """Seconds of the first call, and of the median one after it."""
    seconds = []
    for _ in range(1 + config.steps):
        began = time.perf_counter()
        generate()
        seconds.append(time.perf_counter() - began)
    return {
        "first_seconds": seconds[0],
        "step_seconds": float(np.median(seconds[1:])),
        "tokens": float(config.batch_size * config.new_tokens),
    }


if __name__ == "__main__":
    cli.run(main, Config)
