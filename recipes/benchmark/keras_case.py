"""Measures training and generation by kerasllm and by KerasHub, on random tokens."""

from __future__ import annotations

import time
from importlib import metadata
from typing import Any

from kerasllm import BertConfig, BertPretraining, GPTCausalLM, GPTConfig  # reports a missing backend

# isort: split
import keras
import numpy as np
from clocks import time_calls
from works import Case

from kerasllm import backend
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.token_cache.store import TokenStore
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError
from kerasllm.tasks import CausalLanguageModeling, MaskedLanguageModeling
from kerasllm.tokenizers.wordpiece import SpecialTokens
from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
from kerasllm.training.hardware.precision import choose_precision
from kerasllm.training.optimization.optimizers import adamw

WARM_UP = 3
TOKENS = 500_000


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Returns the figures of one case of training or generation.

    Args:
        case: a case of the peer `kerasllm`, `kerasllm_all_logits` (no chunked loss), `kerasllm_padded` (one short
            pair per row) or `keras_hub`.
        steps: measured steps of training, or calls of `generate`.
    """
    prepare(case)
    hub = case.peer == "keras_hub"
    figures: dict[str, Any] = {}

    def work() -> None:
        if case.work == "generation":
            found = time_calls(hub_generation(case) if hub else generation(case), steps, 1, wait=fetch)
            figures.update(found, tokens=float(case.shape["batch_size"] * case.shape["new_tokens"]))
        else:
            figures.update((train_hub if hub else train)(case, WARM_UP + steps * case.block))

    if case.on_gpu:
        figures["peak_bytes"] = backend.peak_memory(work)
    else:
        work()
    return figures | {"versions": versions(*(["keras_hub"] if hub else []))}


def fetch(tokens: Any) -> Any:
    """Returns the arrays of a structure of tensors, which waits for them."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, tokens)


def prepare(case: Case) -> None:
    """Sets the precision, and refuses a device that Keras' backend does not have."""
    choose_precision(case.precision, keras.Model, ())
    device = str(keras.ops.zeros(1).device)
    if case.on_gpu and not any(kind in device.lower() for kind in ("gpu", "cuda")):
        raise InputError(f"{case.backend} sees no GPU (it computes on {device}): install its build for CUDA")


def versions(*more: str) -> dict[str, str]:
    """Returns the versions of Keras, of its backend, and of more packages."""
    found = {"keras": keras.__version__, keras.backend.backend(): str(backend.version())}
    return found | {package: metadata.version(package) for package in (*backend.libraries(), *more)}


def train(case: Case, steps: int) -> dict[str, Any]:
    """Trains kerasllm's model by plain `fit`, with the recipes' compilation and batches; returns the figures."""
    model: Any
    batches: Any
    sizes = sizes_of(case, case.shape["length"])
    compiled = choose_compilation(None, FROM_STEPS)  # as in a run that is long enough to be compiled
    if case.work in ("bert", "packing"):
        model = BertPretraining(BertConfig(**sizes), seed=0)
        MaskedLanguageModeling().compile(model, adamw(1e-4), jit_compile=compiled)
        batches = pair_batches(case, steps)
    else:
        model = GPTCausalLM(GPTConfig(**sizes), seed=0)
        CausalLanguageModeling().compile(model, adamw(1e-4), jit_compile=compiled)
        if case.peer == "kerasllm_all_logits":
            model.loss.chunk_size = 0
        batches = windows(case, steps)
    figures = time_fit(model, batches, block=case.block)
    flops = model.training_flops(case.shape["length"], getattr(batches, "num_slots", None))
    tokens = [real_tokens(batches[index][0]) for index in range(WARM_UP, steps)]
    return figures | {"tokens": float(np.mean(tokens)), "flops_per_token": flops}


def real_tokens(inputs: dict[str, np.ndarray]) -> int:
    """Returns how many tokens of a batch are not padding."""
    real = inputs.get("padding_mask", inputs.get("sequence_ids", inputs["token_ids"]) >= 0)
    return int(real.sum())


def pair_batches(case: Case, steps: int) -> BertPretrainingBatches:
    """Returns batches of pairs of random tokens, long enough for full rows or as short as MRPC's."""
    length, in_document = case.shape["length"], 200
    lengths = np.full(TOKENS // max(length // 8, 1), max(length // 8, 1))
    if case.work == "packing":
        lengths = np.random.default_rng(0).normal(25, 8, TOKENS // 30).round().clip(4, 60)
        in_document = 2
    ends = np.cumsum(lengths.astype(np.int64))
    documents = np.append(np.arange(0, len(ends) - 1, in_document, dtype=np.int64), len(ends))
    tokens = random_tokens(case, int(ends[-1]), least=5)
    starts = np.concatenate([[0], ends[:-1]])
    return BertPretrainingBatches(
        TokenStore(tokens, starts, ends, documents, case.shape["vocabulary_size"]),
        special=SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4),
        sequence_length=length,
        batch_size=case.shape["batch_size"],
        steps=steps,
        seed=0,
        num_slots=case.shape.get("slots"),
        short_sequence_probability=0.0,
        packing=case.work == "packing" and case.peer == "kerasllm",
    )


def windows(case: Case, steps: int) -> CausalBatches:
    """Returns batches of windows of a stream of random tokens."""
    vocabulary = case.shape["vocabulary_size"]
    stream = TokenStream(random_tokens(case, TOKENS), np.zeros(1, np.int64), vocabulary, vocabulary - 1)
    length, size = case.shape["length"], case.shape["batch_size"]
    return CausalBatches(stream, context_length=length, batch_size=size, steps=steps, seed=0)


def random_tokens(case: Case, *size: int, least: int = 0) -> np.ndarray:
    """Returns an array of random token ids, from `least` to the end of the vocabulary."""
    return np.random.default_rng(0).integers(least, case.shape["vocabulary_size"], size).astype("uint16")


def train_hub(case: Case, steps: int) -> dict[str, Any]:
    """Trains KerasHub's model by plain `fit` over arrays, compiled on JAX and TensorFlow; returns the figures."""
    import keras_hub

    length, size = case.shape["length"], case.shape["batch_size"]
    rows = size * steps
    tokens = random_tokens(case, rows, length).astype("int32")
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    if case.work == "bert":
        backbone = keras_hub.models.BertBackbone(**hub_sizes(case, length))
        model = keras_hub.models.BertMaskedLM(backbone, preprocessor=None)
        places = np.linspace(1, length - 2, case.shape["slots"]).astype("int32")
        inputs["segment_ids"] = np.tile(np.arange(length) >= length // 2, (rows, 1)).astype("int32")
        inputs["mask_positions"] = np.tile(places, (rows, 1))
        labels = tokens[:, places]
    else:
        backbone = keras_hub.models.GPT2Backbone(**hub_sizes(case, length))
        model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
        labels = np.roll(tokens, -1, axis=1)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
        jit_compile=True if keras.backend.backend() == "tensorflow" else "auto",
    )
    figures = time_fit(model, inputs, labels, block=case.block, batch_size=size)
    return figures | {"tokens": float(size * length)}


def sizes_of(case: Case, positions: int) -> dict[str, Any]:
    """Returns the arguments that kerasllm's configs and KerasHub's backbones share."""
    names = ("num_layers", "num_heads", "hidden_dim", "vocabulary_size")
    sizes = {name: case.shape[name] for name in names}
    return sizes | {"max_sequence_length": positions, "dropout": case.shape.get("dropout", 0.0)}


def hub_sizes(case: Case, positions: int) -> dict[str, Any]:
    """Returns the arguments of a KerasHub backbone."""
    return sizes_of(case, positions) | {"intermediate_dim": 4 * case.shape["hidden_dim"]}


def generation(case: Case) -> Any:
    """Returns a function that generates with kerasllm, greedily."""
    positions = max(case.shape["length"] + case.shape["new_tokens"], 1024)
    model = GPTCausalLM(GPTConfig(**sizes_of(case, positions)), seed=0)
    prompts = random_tokens(case, case.shape["batch_size"], case.shape["length"]).astype("int32")
    return lambda: model.generate(prompts, max_new_tokens=case.shape["new_tokens"])


def hub_generation(case: Case) -> Any:
    """Returns a function that generates with KerasHub, greedily."""
    import keras_hub

    length, size = case.shape["length"], case.shape["batch_size"]
    positions = length + case.shape["new_tokens"]
    backbone = keras_hub.models.GPT2Backbone(**hub_sizes(case, max(positions, 1024)))
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    tokens = np.zeros((size, positions), "int32")
    tokens[:, :length] = random_tokens(case, size, length)
    mask = np.zeros_like(tokens)
    mask[:, :length] = 1
    return lambda: model.generate({"token_ids": tokens, "padding_mask": mask}, stop_token_ids=None)


def time_fit(model: Any, *data: Any, block: int = 1, **settings: Any) -> dict[str, float]:
    """Fits one epoch; returns the seconds to the end of the first step, and of the median step after the warm-up."""
    seconds = fit_seconds(model, *data, block=block, **settings)
    return {"first_seconds": float(seconds[0]), "step_seconds": float(np.median(seconds[WARM_UP:])) / block}


def fit_seconds(model: Any, *data: Any, block: int = 1, **settings: Any) -> np.ndarray:
    """Fits one epoch; returns the seconds of each step of the warm-up and then of each block of steps.

    Keras waits for a step's loss before it calls a callback, in another thread: a GPU's steps follow one another.
    """
    times: list[float] = []

    def end(batch: int, logs: Any) -> None:
        done = batch + 1
        if done <= WARM_UP or (done - WARM_UP) % block == 0:
            times.append(time.perf_counter())

    note = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: times.append(time.perf_counter()),
        on_train_batch_end=end,
        async_safe=True,
    )
    model.fit(*data, epochs=1, shuffle=False, verbose=0, callbacks=[note], **settings)
    return np.diff(sorted(times))
