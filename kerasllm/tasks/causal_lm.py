"""Causal language modeling: the prediction of the next token at each position."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models import GPTBackbone, GPTCausalLM
from kerasllm.tasks.base import Task


class CausalLanguageModeling(Task):
    """Causal language modeling, without metrics, so that the loss can project to the vocabulary in chunks."""

    name: ClassVar[str] = "causal_lm"
    model_classes: ClassVar[tuple[type, ...]] = (GPTCausalLM, GPTBackbone)
    recipe: ClassVar[str] = "generate"
    example: ClassVar[tuple[str, ...]] = ("--prompt", "Once upon a time")

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the loss alone."""
        return {"loss": CausalLanguageModelLoss(reduction=reduction)}

    def evaluate(self, model: Any, batches: Any) -> dict[str, Any]:
        """Returns `loss` in nats per token, `perplexity` and `tokens`; all tokens have the same weight.

        Args:
            model: a model that `compile` has compiled.
            batches: a sequence of (inputs, labels, weights), with weights of 1 or 0.
        """
        loss = tokens = 0.0
        summed = model.loss.reduction == "sum"
        for index in range(len(batches)):
            inputs, labels, weights = batches[index]
            weight = float(weights.sum())
            value = float(model.test_on_batch(inputs, labels, weights))
            loss += value if summed else value * weight
            tokens += weight
        mean = loss / max(tokens, 1.0)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "tokens": round(tokens)}
