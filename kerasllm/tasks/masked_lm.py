"""The objectives of BERT's pretraining, compiled and evaluated in one way everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

from kerasllm import backend
from kerasllm.losses import MaskedLanguageModelLoss, NextSentenceLoss
from kerasllm.metrics import MaskedLanguageModelAccuracy, NextSentenceAccuracy
from kerasllm.training.state.interruption import break_off_if_told


def compile_pretraining(
    model: Any,
    optimizer: keras.optimizers.Optimizer,
    *,
    normalized_weights: bool = False,
    jit_compile: bool | str | None = None,
) -> None:
    """Compiles a `BertPretraining` with the losses and metrics of its objectives.

    Args:
        model: its `objectives` say which.
        optimizer: any.
        normalized_weights: the data's weights are divided by their sum already (gradient accumulation).
        jit_compile: as `model.compile` takes it; the backend's own choice where None.
    """
    reduction = "sum" if normalized_weights else "mean_with_sample_weight"
    losses = {
        "masked_lm": MaskedLanguageModelLoss(reduction=reduction),
        "next_sentence": NextSentenceLoss(reduction=reduction),
    }
    metrics = {"masked_lm": MaskedLanguageModelAccuracy(), "next_sentence": NextSentenceAccuracy()}
    model.compile(
        optimizer=optimizer,
        loss={name: losses[name] for name in model.objectives},
        weighted_metrics={name: [metrics[name]] for name in model.objectives},
        jit_compile=backend.jit_compile if jit_compile is None else jit_compile,
    )
    model.per_step_metrics = True


def evaluate_pretraining(model: Any, batches: Iterable[tuple[dict, dict, dict]]) -> dict[str, float]:
    """Losses and accuracies over all batches, each token (or pair) weighing the same.

    Args:
        model: compiled by `compile_pretraining`.
        batches: inputs, labels and plain weights, 1 or 0.

    Returns:
        `loss` (the sum of the objectives' losses), and for masked-LM `masked_lm_loss` in nats a token,
        `masked_lm_accuracy` and `perplexity`; for next-sentence prediction `next_sentence_loss` in nats a
        pair and `next_sentence_accuracy`.
    """
    objectives = model.objectives
    sums: dict[str, float] = {}
    totals = dict.fromkeys(objectives, 0.0)
    normalized = any(loss.reduction == "sum" for loss in model.loss.values())
    for index in range(len(batches)):  # type: ignore[arg-type]
        break_off_if_told()
        inputs, labels, weights = batches[index]  # type: ignore[index]
        model.reset_metrics()
        logs = model.test_on_batch(inputs, labels, weights, return_dict=True)
        if len(objectives) == 1:  # Keras then names neither loss nor metric after the output
            only = objectives[0]
            accuracy = next(value for name, value in logs.items() if name.endswith("accuracy"))
            logs = {f"{only}_loss": logs["loss"], f"{only}_accuracy": accuracy}
        for name in objectives:
            weight = float(weights[name].sum())
            totals[name] += weight
            loss = float(logs[f"{name}_loss"]) * (1.0 if normalized else weight)
            sums[f"{name}_loss"] = sums.get(f"{name}_loss", 0.0) + loss
            hits = float(logs[f"{name}_accuracy"]) * weight
            sums[f"{name}_accuracy"] = sums.get(f"{name}_accuracy", 0.0) + hits
    figures = {
        f"{name}_{kind}": sums[f"{name}_{kind}"] / max(totals[name], 1.0)
        for name in objectives
        for kind in ("loss", "accuracy")
    }
    result = {"loss": sum(figures[f"{name}_loss"] for name in objectives), **figures}
    if "masked_lm" in objectives:
        result["perplexity"] = math.exp(min(figures["masked_lm_loss"], 700.0))
    return result
