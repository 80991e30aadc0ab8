"""Causal language modeling: the prediction of the next token at each position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from kerasllm.errors import InputError
from kerasllm.models import GPTBackbone, GPTCausalLM, RecurrentBackbone, RecurrentLM
from kerasllm.tasks.base import PredictionSettings, Task, load_whole
from kerasllm.tasks.saved_model import SavedModel


class CausalLanguageModeling(Task):
    """Causal language modeling, without metrics, so that the loss can project to the vocabulary in chunks."""

    name: ClassVar[str] = "causal_lm"
    model_classes: ClassVar[tuple[type, ...]] = (GPTCausalLM, GPTBackbone, RecurrentLM, RecurrentBackbone)
    heads: ClassVar[frozenset[str]] = frozenset({"head"})
    reads_wordpiece: ClassVar[bool] = False
    heeds_length: ClassVar[bool] = False
    recipe: ClassVar[str] = "generate"
    example: ClassVar[tuple[str, ...]] = ("--prompt", "Once upon a time")

    @classmethod
    def load(cls, saved: SavedModel) -> Any:
        """Returns the model of a directory; a plain backbone's output table is that of its embedding."""
        headed = {GPTBackbone: GPTCausalLM, RecurrentBackbone: RecurrentLM}
        return load_whole(headed.get(saved.model_class, saved.model_class), saved.directory, cls.heads)

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the loss alone."""
        return {"loss": model.default_loss(reduction)}

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

    @classmethod
    def predict(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[tuple[str, ...]],
        settings: PredictionSettings,
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns each text with its likeliest continuation, as `{"text"}`; see `Task.predict`."""
        if any(len(text) == 2 for text in texts):
            raise InputError("a language model continues one text, not a pair of texts")
        found: list[str] = []
        for start in range(0, len(texts), settings.batch_size):
            batch = [text for (text,) in texts[start : start + settings.batch_size]]
            found += model.generate(batch, tokenizer=tokenizer, first_row=settings.first + start)
        return [{"text": text} for text in found], 0

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns the text with its continuation."""
        return [str(prediction["text"])]
