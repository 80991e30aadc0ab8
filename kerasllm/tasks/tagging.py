"""Tagging: a tag for each word, such as named entities or parts of speech.

The first token of a word has its tag. Words that the tokenizer turns into nothing get the tag O, or the most frequent
one without a scheme.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kerasllm.data.batches.tagged import TaggingBatches
from kerasllm.data.examples.tagged import (
    EncodedWords,
    divided_words,
    encode_divided_words,
    encode_raw_words,
    split_words,
)
from kerasllm.data.sources.tag_schemes import OUTSIDE, Entity, Scheme, entities, scheme_of
from kerasllm.errors import InputError
from kerasllm.models import BertTokenClassifier
from kerasllm.tasks.base import PredictionSettings, Task, few_shapes
from kerasllm.tasks.entity_figures import tagging_figures
from kerasllm.tasks.ordered_outputs import finite, predict_tokens
from kerasllm.tasks.viterbi import decode_legal


class Tagging(Task):
    """A tag for each word.

    Args:
        label_names: the names of all tags, in the order of their ids.
        scheme: the scheme of the tags.
    """

    name: ClassVar[str] = "tagging"
    model_classes: ClassVar[tuple[type, ...]] = (BertTokenClassifier,)
    monitors: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "f1", "f1_macro", "f1_strict", "f1_viterbi")
    heads: ClassVar[frozenset[str]] = frozenset({"classifier"})

    def __init__(self, label_names: Sequence[str], scheme: Scheme) -> None:
        self.label_names, self.scheme = tuple(label_names), scheme

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the cross-entropy of the words."""
        return {"loss": model.default_loss(reduction)}

    def evaluate(self, model: Any, batches: TaggingBatches) -> dict[str, Any]:
        """Returns `loss`, the mean cross-entropy of a word in nats, `examples` and the figures of `tagging_figures`.

        With a scheme there is also `f1_viterbi`, the F1 of the most likely tags that the scheme allows.

        Args:
            model: a model that returns logits (batch, length, tags).
            batches: padded batches with labels.
        """
        words = batches.words
        scores = word_scores(model, batches)
        labels = batches.word_labels
        if labels is None:
            raise ValueError("the batches have no labels")
        judged = ~np.isnan(scores[:, 0])
        loss = -scores[judged, labels[judged]].mean() if judged.any() else 0.0
        expected = self._by_sentence(labels, words.num_words)
        figures = self._figures(expected, _most_likely(scores, self.label_names), words)
        if self.scheme != "none":
            legal = _legal(scores, words.num_words, self.label_names, self.scheme)
            figures["f1_viterbi"] = self._figures(expected, legal, words)["f1"]
        return {"examples": len(words.num_words), "loss": finite(loss), **figures}

    def _figures(self, expected: list[list[str]], labels: np.ndarray, words: EncodedWords) -> dict[str, Any]:
        return tagging_figures(expected, self._by_sentence(labels, words.num_words), self.scheme)

    def _by_sentence(self, labels: np.ndarray, num_words: np.ndarray) -> list[list[str]]:
        """Returns the tags of each sentence for the tags of all words."""
        bounds = np.concatenate([[0], np.cumsum(num_words)])
        tags = [self.label_names[label] for label in labels]
        return [tags[start:end] for start, end in itertools.pairwise(bounds)]

    @classmethod
    def predict(
        cls, model: Any, tokenizer: Any, texts: Sequence[tuple[str, ...]], settings: PredictionSettings
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns the `entities` of each text, or the tags of its `words` if the tags have no scheme.

        The words are those of the tokenizer, unless the texts are split into words. An entity has `text`, `label`,
        `start` and `end` in characters, and `score`, the mean probability of its words' tags. See `Task.predict`.
        """
        if any(len(text) == 2 for text in texts):
            raise InputError("tags are for single texts, not for pairs: leave out the tab")
        plain = [text for (text,) in texts]
        encode = encode_divided_words if settings.is_split_into_words else encode_raw_words
        found = encode(tokenizer, plain, settings.sequence_length)
        names = list(model.label_names or map(str, range(model.num_classes)))
        count = len(found.encoded.windows)
        shapes = few_shapes(count, settings.batch_size, settings.sequence_length)
        batches = TaggingBatches(found.encoded, None, shuffle=False, **shapes)
        scores = word_scores(model, batches)
        labels = _most_likely(scores, names)
        probabilities = np.exp(np.nan_to_num(scores.max(axis=1), nan=0.0))
        has_entities = scheme_of(names) != "none"
        rows = []
        start = 0
        for text, bounds in zip(plain, found.bounds, strict=True):
            own = slice(start, start + len(bounds))
            start += len(bounds)
            tags = [names[label] for label in labels[own]]
            spans = (
                entities(tags)
                if has_entities
                else [Entity(tag, index, index) for index, tag in enumerate(tags)]
            )
            shown = [_shown(text, bounds, probabilities[own], span) for span in spans]
            rows.append({"entities" if has_entities else "words": shown})
        return rows, 0  # longer texts are divided, not cut

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns one line for each entity, or word: its label, score, place and text; then the whole text."""
        found = prediction.get("entities", prediction.get("words", ()))
        lines = [
            f"{each['label']}\t{each['score']:.4f}\t{each['start']}-{each['end']}\t{each['text']}"
            for each in found
        ]
        return [prediction["text"], *lines]


def conll_lines(
    tokenizer: Any, prediction: Mapping[str, Any], *, is_split_into_words: bool = False
) -> list[str]:
    """Returns the lines of CoNLL for a text: a word, a tab and its tag, then an empty line; entities as IOB2.

    Args:
        tokenizer: the model's tokenizer, whose words they are.
        prediction: a result of `Tagging.record`.
        is_split_into_words: whether they are those between single spaces, as they were predicted.
    """
    text = prediction["text"]
    bounds = divided_words(text) if is_split_into_words else split_words(tokenizer, text)
    if "words" in prediction:
        tags = [each["label"] for each in prediction["words"]]
    else:
        tags = [OUTSIDE] * len(bounds)
        for entity in prediction["entities"]:
            for place, (start, end) in enumerate(bounds):
                if entity["start"] <= start and end <= entity["end"]:
                    tags[place] = f"{'B' if start == entity['start'] else 'I'}-{entity['label']}"
    words = [prediction["text"][start:end] for start, end in bounds]
    return [*(f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)), ""]


def word_scores(model: Any, batches: TaggingBatches) -> np.ndarray:
    """Returns the log-probabilities of the tags of all words, float64 (words, tags); NaN for words without a token.

    Args:
        model: a model that returns logits (batch, length, tags).
        batches: padded batches of all words.
    """
    words = batches.words
    logits = predict_tokens(model, batches)
    judged = words.words >= 0
    scores = np.full((int(words.num_words.sum()), logits.shape[-1]), np.nan)
    chosen = logits[judged].astype(np.float64)
    chosen -= chosen.max(axis=1, keepdims=True)
    scores[words.words[judged]] = chosen - np.log(np.exp(chosen).sum(axis=1, keepdims=True))
    return scores


def _most_likely(scores: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Returns the most likely tag of each word; words without a token have O, or the most frequent of the others."""
    lost = np.isnan(scores[:, 0])
    labels = np.where(lost[:, None], 0.0, scores).argmax(axis=1)
    if lost.any():
        labels[lost] = _without_token(labels[~lost], label_names)
    return labels


def _without_token(labels: np.ndarray, label_names: Sequence[str]) -> int:
    """Returns the tag for words without a token."""
    if OUTSIDE in label_names:
        return list(label_names).index(OUTSIDE)
    return int(np.bincount(labels, minlength=1).argmax())


def _legal(
    scores: np.ndarray, num_words: np.ndarray, label_names: Sequence[str], scheme: Scheme
) -> np.ndarray:
    """Returns the most likely tags that the scheme allows, for all words; words without a token have O."""
    known = scores.copy()
    lost = np.isnan(known[:, 0])
    known[lost] = -1e9
    known[lost, _without_token(np.zeros(1, int), label_names)] = 0.0
    return np.concatenate(decode_legal(known, num_words, label_names, scheme))


def _shown(
    text: str, bounds: Sequence[tuple[int, int]], probabilities: np.ndarray, entity: Entity
) -> dict[str, Any]:
    """Returns an entity as a prediction shows it."""
    start, end = bounds[entity.first][0], bounds[entity.last][1]
    score = float(probabilities[entity.first : entity.last + 1].mean())
    return {
        "text": text[start:end],
        "label": entity.label,
        "start": start,
        "end": end,
        "score": round(score, 4),
    }
