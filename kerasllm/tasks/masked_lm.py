"""BERT's pretraining: masked-LM, next-sentence prediction, and the prediction of masked tokens in texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError
from kerasllm.losses import MaskedLanguageModelLoss, NextSentenceLoss
from kerasllm.metrics import MaskedLanguageModelAccuracy, NextSentenceAccuracy
from kerasllm.models import BertBackbone, BertMaskedLM, BertPretraining
from kerasllm.tasks.base import PredictionSettings, Task, load_whole
from kerasllm.tasks.saved_model import SavedModel
from kerasllm.tokenizers.wordpiece import special_token_ids


class MaskedLanguageModeling(Task):
    """Masked-LM and next-sentence prediction, or one of them, according to the model's `objectives`."""

    name: ClassVar[str] = "masked_lm"
    model_classes: ClassVar[tuple[type, ...]] = (BertPretraining, BertMaskedLM, BertBackbone)
    example: ClassVar[tuple[str, ...]] = ("--text", "The capital of France is [MASK].")

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns a loss and an accuracy for each objective."""
        losses = {
            "masked_lm": MaskedLanguageModelLoss(reduction=reduction),
            "next_sentence": NextSentenceLoss(reduction=reduction),
        }
        metrics = {"masked_lm": MaskedLanguageModelAccuracy(), "next_sentence": NextSentenceAccuracy()}
        return {
            "loss": {name: losses[name] for name in model.objectives},
            "weighted_metrics": {name: [metrics[name]] for name in model.objectives},
        }

    def evaluate(self, model: Any, batches: Any) -> dict[str, Any]:
        """Returns losses and accuracies over all batches; all tokens, and all pairs, have the same weight.

        They are `loss`, the sum of the objectives' losses; for masked-LM, `masked_lm_loss` in nats per token,
        `masked_lm_accuracy` and `perplexity`; and for next-sentence prediction, `next_sentence_loss` in nats per pair
        and `next_sentence_accuracy`.

        Args:
            model: a model that `compile` has compiled.
            batches: a sequence of (inputs, labels, weights), with weights of 1 or 0.
        """
        objectives = model.objectives
        sums: dict[str, float] = {}
        totals = dict.fromkeys(objectives, 0.0)
        normalized = any(loss.reduction == "sum" for loss in model.loss.values())
        for index in range(len(batches)):
            inputs, labels, weights = batches[index]
            model.reset_metrics()
            logs = model.test_on_batch(inputs, labels, weights, return_dict=True)
            if len(objectives) == 1:  # Keras does not prefix the names of a single output
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

    @classmethod
    def predict(
        cls, saved: SavedModel, texts: Sequence[tuple[str, ...]], options: PredictionSettings
    ) -> list[dict[str, Any]]:
        """Returns the most likely tokens for each [MASK] of each text, as `{"text", "masks"}`.

        See `Task.predict`.
        """
        mask = special_token_ids(saved.tokenizer).mask
        length = options.sequence_length
        encoded = encode_texts(saved.tokenizer, texts, length)
        for text, start, end in zip(texts, encoded.offsets[:-1], encoded.offsets[1:], strict=True):
            if mask not in encoded.token_ids[start:end]:
                raise InputError(
                    f"{_joined(text)[:60]!r} holds no [MASK] within {length} tokens, and {saved.directory} is a "
                    "pretrained model: put [MASK] in the place of a word"
                )
        model_class = BertMaskedLM if saved.model_class is BertBackbone else saved.model_class
        model = load_whole(model_class, saved.directory, {"masked_lm_head", "masked_lm_projection"})
        batches = ClassificationBatches(encoded, None, batch_size=options.batch_size, shuffle=False)
        masks: dict[int, list[list[dict[str, Any]]]] = {}
        for step in range(batches.steps):
            inputs = batches.batch(step)[0]
            logits = np.asarray(model.predict_on_batch(inputs)["masked_lm"], dtype="float64")
            for row, index in enumerate(batches.order[step]):
                if index >= 0:
                    places = np.flatnonzero(inputs["token_ids"][row] == mask)
                    masks[int(index)] = [
                        _candidates(saved.tokenizer, logits[row, place], options.top_k) for place in places
                    ]
        return [{"text": _joined(text), "masks": masks[index]} for index, text in enumerate(texts)]

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns a line for each [MASK], with the text and the candidates."""
        return [
            f"{prediction['text']}\t" + "  ".join(f"{c['token']} {c['probability']:.3f}" for c in place)
            for place in prediction["masks"]
        ]


def _candidates(tokenizer: Any, scores: np.ndarray, top_k: int) -> list[dict[str, Any]]:
    """Returns the most likely tokens at one position with their probabilities."""
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        {"token": tokenizer.id_to_token(int(i)), "probability": round(float(probabilities[i]), 4)}
        for i in best
    ]


def _joined(text: tuple[str, ...]) -> str:
    """Returns a text, or the two texts of a pair separated by a tab."""
    return "\t".join(text)
