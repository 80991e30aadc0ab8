"""Figures for sequences of tags: F1 of whole entities by seqeval's rule, and the share of words with the right tag.

An entity counts only if its type, its first and its last word are right.

Reference: Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419, section 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kerasllm.data.sources.tag_schemes import Entity, Scheme, entities, strict_entities

Tags = Sequence[str]


def tagging_figures(expected: Sequence[Tags], predicted: Sequence[Tags], scheme: Scheme) -> dict[str, Any]:
    """Returns the figures of predicted tags, as shares in [0, 1]; an undefined one is 0, as seqeval has it.

    Args:
        expected: the right tags of each sentence.
        predicted: the predicted tags of each sentence.
        scheme: the scheme; with "none" there are no entities.

    Returns:
        `accuracy`, the share of words whose tag is right; and for entities `precision`, `recall` and `f1` over all of
        them (micro), `f1_macro`, the mean over the types, `f1_strict`, where only well-formed entities count, and
        `types`: {type: {precision, recall, f1, entities}}.
    """
    words = sum(map(len, expected))
    hits = sum(
        right == found
        for one, other in zip(expected, predicted, strict=True)
        for right, found in zip(one, other, strict=True)
    )
    figures: dict[str, Any] = {"accuracy": hits / max(words, 1)}
    if scheme == "none":
        return figures
    right, found, both = _counts(expected, predicted, entities)
    types = {
        label: _scores(right[label], found[label], both[label]) | {"entities": right[label]}
        for label in sorted(right | found)
    }
    figures |= _scores(right.total(), found.total(), both.total())
    figures["f1_macro"] = sum(values["f1"] for values in types.values()) / max(len(types), 1)
    strict = _counts(expected, predicted, lambda tags: strict_entities(tags, scheme))
    figures["f1_strict"] = _scores(*(counts.total() for counts in strict))["f1"]
    return figures | {"types": types}


def _counts(
    expected: Iterable[Tags], predicted: Iterable[Tags], rule: Callable[[Tags], list[Entity]]
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Returns the number of entities by type: those expected, those predicted, and those in both."""
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    both: Counter[str] = Counter()
    for one, other in zip(expected, predicted, strict=True):
        wanted, given = set(rule(one)), set(rule(other))
        right.update(entity.label for entity in wanted)
        found.update(entity.label for entity in given)
        both.update(entity.label for entity in wanted & given)
    return right, found, both


def _scores(right: int, found: int, both: int) -> dict[str, float]:
    """Returns precision, recall and F1."""
    precision, recall = both / max(found, 1), both / max(right, 1)
    return {"precision": precision, "recall": recall, "f1": 2 * both / max(right + found, 1)}
