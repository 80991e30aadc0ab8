"""BERT's pretraining: masked-LM, next-sentence prediction, and the prediction of masked tokens in texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kerasllm.errors import InputError
from kerasllm.metrics import MaskedLanguageModelAccuracy, NextSentenceAccuracy
from kerasllm.models import BertBackbone, BertMaskedLM, BertPretraining
from kerasllm.models.inputs import check_values
from kerasllm.tasks.base import PredictionSettings, Task, load_whole, prediction_batches
from kerasllm.tasks.saved_model import SavedModel
from kerasllm.tokenizers.wordpiece import special_token_ids


class MaskedLanguageModeling(Task):
    """Masked-LM and next-sentence prediction, or one of them, according to the model's `objectives`."""

    name: ClassVar[str] = "masked_lm"
    model_classes: ClassVar[tuple[type, ...]] = (BertPretraining, BertMaskedLM, BertBackbone)
    heads: ClassVar[frozenset[str]] = frozenset({"masked_lm_head", "masked_lm_projection"})
    example: ClassVar[tuple[str, ...]] = ("--text", "The capital of France is [MASK].")

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns a loss and an accuracy for each objective."""
        metrics = {"masked_lm": MaskedLanguageModelAccuracy(), "next_sentence": NextSentenceAccuracy()}
        return {
            "loss": model.default_loss(reduction),
            "weighted_metrics": {name: [metrics[name]] for name in model.label_counts},
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
        objectives = tuple(model.label_counts)
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
    def load(cls, saved: SavedModel) -> Any:
        """Returns the model of a directory; the head of masked-LM may be beside a plain backbone, too."""
        if saved.model_class is not BertBackbone:
            return load_whole(saved.model_class, saved.directory, cls.heads)
        vectors = (
            f"; its sentence vectors are kerasllm.BertEncoder.from_pretrained({str(saved.directory)!r}), or "
            "the commands embed and retrieve"
        )
        return load_whole(BertMaskedLM, saved.directory, cls.heads, vectors)

    @classmethod
    def predict(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[tuple[str, ...]],
        settings: PredictionSettings,
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns `masks`, the most likely tokens for each [MASK] of each text, each with its `score`.

        See `Task.predict`.
        """
        if getattr(model, "masked_lm_head", None) is None:
            raise InputError(f"a {type(model).__name__} without a masked-LM head fills no [MASK]")
        mask = special_token_ids(tokenizer).mask
        batches = prediction_batches(tokenizer, texts, settings)
        encoded = batches.encoded
        for text, start, end in zip(texts, encoded.offsets[:-1], encoded.offsets[1:], strict=True):
            if mask not in encoded.token_ids[start:end]:
                raise InputError(
                    f"{' '.join(text)[:60]!r} holds no [MASK] within {settings.sequence_length} tokens, and the model "
                    "is a pretrained model: put [MASK] in the place of a word"
                )
        masks: dict[int, list[list[dict[str, Any]]]] = {}
        for step in range(batches.steps):
            inputs = batches.batch(step)[0]
            check_values(model, inputs)
            logits = np.asarray(model.predict_on_batch(inputs)["masked_lm"], dtype="float64")
            for row, index in enumerate(batches.order[step]):
                if index >= 0:
                    places = np.flatnonzero(inputs["token_ids"][row] == mask)
                    masks[int(index)] = [
                        _candidates(tokenizer, logits[row, place], settings.top_k) for place in places
                    ]
        return [{"masks": masks[index]} for index in range(len(texts))], encoded.num_truncated

    @classmethod
    def record(cls, text: tuple[str, ...], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `text` and `masks`, each candidate with its `token` and `probability`, rounded."""
        masks = [
            [{"token": each["token"], "probability": round(each["score"], 4)} for each in place]
            for place in prediction["masks"]
        ]
        return {"text": "\t".join(text), "masks": masks}

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
    return [{"token": tokenizer.id_to_token(int(i)), "score": float(probabilities[i])} for i in best]
