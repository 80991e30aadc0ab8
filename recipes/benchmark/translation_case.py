"""Measures the training of an encoder-decoder on random pairs, as long as Multi30k's: by kerasllm, Marian or torch.nn.

Batches differ in length, so the speed is the median over the steps of tokens without padding by seconds. Each library
makes its own batches of the same pairs, with the same number of places for target tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from works import Case

WARM_UP = 3
PAIRS = 20_000
SMOOTHING = 0.1
PAD = 0


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Returns the figures of one case.

    Args:
        case: a case of the peer `kerasllm`, `transformers` or `torch_loop` (`torch.nn.Transformer`).
        steps: measured steps after the warm-up.
    """
    return (by_kerasllm if case.peer == "kerasllm" else by_torch)(case, steps)


def pairs(case: Case) -> list[list[np.ndarray]]:
    """Returns the token ids of sources and of targets, each int32 (length,) with its end token."""
    random = np.random.default_rng(0)
    sides = []
    for mean in (14, 15):  # tokens of English and of German
        lengths = random.normal(mean, 4.5, PAIRS).round().clip(4, 40).astype(int)
        ids = random.integers(2, case.shape["vocabulary_size"] - 1, lengths.sum()).astype(np.int32)
        ends = np.cumsum(lengths)
        ids[ends - 1] = 1
        sides.append(np.split(ids, ends[:-1]))
    return sides


def figures(tokens: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    """Returns the mean tokens of a step, and the seconds in which the median speed makes so many.

    Args:
        tokens: (steps,), tokens without padding.
        seconds: (steps,).
    """
    measured = slice(WARM_UP, None)
    mean, speed = float(tokens[measured].mean()), float(np.median(tokens[measured] / seconds[measured]))
    return {"tokens": mean, "step_seconds": mean / speed, "first_seconds": float(seconds[0])}


def by_kerasllm(case: Case, steps: int) -> dict[str, Any]:
    """Trains by plain `fit`."""
    import keras
    from keras_case import fit_seconds, versions

    from kerasllm import Seq2SeqConfig, Seq2SeqLM
    from kerasllm.data.batches.translation import TranslationBatches
    from kerasllm.data.examples.parallel import EncodedPairs
    from kerasllm.tasks.translation import Translation
    from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
    from kerasllm.training.optimization.optimizers import adamw

    keras.config.set_dtype_policy(case.precision)
    shape = case.shape
    sizes = {name: shape[name] for name in SIZES}
    pad = shape["vocabulary_size"] - 1
    model = Seq2SeqLM(
        Seq2SeqConfig(**sizes, dropout=shape["dropout"], pad_token_id=pad, end_token_id=1), seed=0
    )
    compiled = choose_compilation(None, FROM_STEPS)  # as in a run that is long enough to be compiled
    Translation(SMOOTHING).compile(model, adamw(1e-4), jit_compile=compiled)
    sources, targets = pairs(case)
    encoded = EncodedPairs(
        source_ids=np.concatenate(sources),
        source_offsets=np.cumsum([0, *map(len, sources)]),
        target_ids=np.concatenate(targets),
        target_offsets=np.cumsum([0, *map(len, targets)]),
        pad_id=pad,
        left_out={},
        num_cut=0,
    )
    batches = TranslationBatches(encoded, batch_tokens=shape["batch_tokens"], steps=WARM_UP + steps)
    seconds = fit_seconds(model, batches)
    tokens = np.array([batches.real_tokens(step) for step in range(batches.steps)])
    length = round((len(encoded.source_ids) + len(encoded.target_ids)) / (2 * PAIRS))
    flops = model.training_flops(length)
    return figures(tokens, seconds) | {"flops_per_token": flops, "versions": versions()}


SIZES = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim", "vocabulary_size")


def by_torch(case: Case, steps: int) -> dict[str, Any]:
    """Trains Marian of transformers, or torch.nn's Transformer, in a plain loop."""
    from torch_case import functional, torch

    torch.manual_seed(0)
    model, logits_of = (marian if case.peer == "transformers" else torch_transformer)(case)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = torch_batches(case)
    tokens, seconds = [], []
    for _ in range(WARM_UP + steps):
        began = time.perf_counter()
        source, target = (torch.from_numpy(side) for side in next(batches))
        given = torch.cat([torch.full((len(target), 1), PAD), target[:, :-1]], 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "mixed_bfloat16"):
            logits = logits_of(source, given)
            loss = functional.cross_entropy(
                logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - began)
        tokens.append(int((source != PAD).sum() + (target != PAD).sum()))
    versions = {"torch": torch.__version__}
    if case.peer == "transformers":
        import transformers

        versions["transformers"] = transformers.__version__
    return figures(np.array(tokens), np.array(seconds)) | {"versions": versions}


def torch_batches(case: Case) -> Any:
    """Yields padded sources and targets, int64 (rows, length), of similar lengths, in random order."""
    sources, targets = pairs(case)
    order = sorted(range(PAIRS), key=lambda pair: (len(targets[pair]), len(sources[pair])))
    cut: list[list[int]] = [[]]
    for pair in order:  # from short to long: the last is the longest
        if len(targets[pair]) * (len(cut[-1]) + 1) > case.shape["batch_tokens"]:
            cut.append([])
        cut[-1].append(pair)

    def padded(rows: list[np.ndarray]) -> np.ndarray:
        array = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
        for row, ids in zip(array, rows, strict=True):
            row[: len(ids)] = ids
        return array

    random = np.random.default_rng(0)
    while True:
        for number in random.permutation(len(cut)):
            yield tuple(padded([side[pair] for pair in cut[number]]) for side in (sources, targets))


def marian(case: Case) -> tuple[Any, Callable[..., Any]]:
    """Returns transformers' Marian and a function from sources and decoder inputs to logits."""
    from transformers import MarianConfig, MarianMTModel

    shape = case.shape
    names = {"layers": "num_layers", "attention_heads": "num_heads", "ffn_dim": "intermediate_dim"}
    sizes = {
        f"{side}_{theirs}": shape[name] for theirs, name in names.items() for side in ("encoder", "decoder")
    }
    dropout: dict[str, Any] = {"dropout": shape["dropout"], "attention_dropout": shape["dropout"]}
    model = MarianMTModel(
        MarianConfig(
            **sizes,
            **dropout,
            vocab_size=shape["vocabulary_size"],
            decoder_vocab_size=shape["vocabulary_size"],
            d_model=shape["hidden_dim"],
            activation_function="relu",
            max_position_embeddings=128,
            scale_embedding=True,
            pad_token_id=PAD,
            eos_token_id=1,
            decoder_start_token_id=PAD,
            forced_eos_token_id=1,
        )
    )

    def logits(source: Any, given: Any) -> Any:
        mask = (source != PAD).long()
        return model(input_ids=source, attention_mask=mask, decoder_input_ids=given).logits

    return model, logits


def torch_transformer(case: Case) -> tuple[Any, Callable[..., Any]]:
    """Returns torch.nn's Transformer with embeddings, and a function from sources and decoder inputs to logits."""
    from torch_case import torch

    shape, nn = case.shape, torch.nn
    width = shape["hidden_dim"]
    token = nn.Embedding(shape["vocabulary_size"], width, padding_idx=PAD)
    position = nn.Embedding(128, width)
    body = nn.Transformer(
        *(width, shape["num_heads"], shape["num_layers"], shape["num_layers"], shape["intermediate_dim"]),
        shape["dropout"],
        batch_first=True,
    )

    def embedded(ids: Any) -> Any:
        return token(ids) * math.sqrt(width) + position.weight[: ids.shape[1]]

    def logits(source: Any, given: Any) -> Any:
        future = body.generate_square_subsequent_mask(given.shape[1])
        hidden = body(
            embedded(source),
            embedded(given),
            tgt_mask=future,
            tgt_is_causal=True,
            src_key_padding_mask=torch.zeros(source.shape).masked_fill(source == PAD, -math.inf),
            memory_key_padding_mask=torch.zeros(source.shape).masked_fill(source == PAD, -math.inf),
        )
        return hidden @ token.weight.T

    return nn.ModuleList([token, position, body]), logits
