"""Labeled tasks made from the Python documentation, which show the benefit of pretraining.

The labels are properties of the text itself (the place of a sentence, the order of its words), so no annotation is
needed. The documents of all test sets are known, so that pretraining can leave them out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerasllm.data.sources.python_docs import STANDARD_LIBRARY, Document
from kerasllm.errors import InputError

Example = tuple[tuple[str, ...], int]


@dataclass(frozen=True)
class Task:
    """A classification task with its training, validation and test examples.

    Args:
        name: the task's name.
        label_names: the names of the classes.
        train, validation, test: the examples, each a tuple of one or two texts and a class.
    """

    name: str
    label_names: tuple[str, ...]
    train: list[Example]
    validation: list[Example]
    test: list[Example]


def held_out(document: Document, share: float = 0.15) -> bool:
    """Returns whether a document belongs to the test sets, decided by a hash of its name."""
    digest = hashlib.sha256(document.name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def belong_together(
    documents: Sequence[Document], *, train: int, validation: int, test: int, seed: int
) -> Task:
    """Makes the task of telling whether the second sentence follows the first or is from another document.

    As it resembles next-sentence prediction, it favors a model that was pretrained with that objective.
    """

    def examples(part: list[Document], count: int, generator: np.random.Generator) -> list[Example]:
        part = [document for document in part if len(document.sentences) >= 2]
        sizes = np.array([len(document.sentences) for document in part], float)
        found: list[Example] = []
        for number in range(count):
            first = part[generator.choice(len(part), p=sizes / sizes.sum())]
            at = int(generator.integers(len(first.sentences) - 1))
            label = number % 2
            if label == 0:
                found.append(((first.sentences[at], first.sentences[at + 1]), 0))
                continue
            other = first
            while other is first:
                other = part[generator.choice(len(part), p=sizes / sizes.sum())]
            found.append(
                ((first.sentences[at], other.sentences[generator.integers(len(other.sentences))]), 1)
            )
        return found

    return _split(
        "belong_together", ("follows", "elsewhere"), documents, examples, train, validation, test, seed
    )


def swapped_words(
    documents: Sequence[Document], *, train: int, validation: int, test: int, seed: int, swaps: int = 2
) -> Task:
    """Makes the task of telling whether neighboring words of a sentence were swapped (`swaps` times)."""

    def examples(part: list[Document], count: int, generator: np.random.Generator) -> list[Example]:
        texts = (text for document in part for text in document.sentences)
        sentences = [text for text in texts if _can_be_swapped(text.split())]
        chosen = generator.choice(len(sentences), min(count, len(sentences)), replace=False)
        found: list[Example] = []
        for number, index in enumerate(chosen):
            words = sentences[index].split()
            while number % 2 and " ".join(words) == " ".join(sentences[index].split()):
                for _ in range(swaps):  # if the second swap undoes the first, the loop repeats
                    _swap(words, generator)
            found.append(((" ".join(words),), number % 2))
        return found

    return _split(
        "swapped_words", ("in order", "swapped"), documents, examples, train, validation, test, seed
    )


def _swap(words: list[str], generator: np.random.Generator) -> None:
    """Swaps two different neighboring words, but never the last word, which has the full stop."""
    at = int(generator.choice(_places(words)))
    words[at], words[at + 1] = words[at + 1], words[at]


def _places(words: list[str]) -> list[int]:
    return [at for at in range(len(words) - 2) if words[at].lower() != words[at + 1].lower()]


def _can_be_swapped(words: list[str]) -> bool:
    return 8 <= len(words) <= 24 and bool(_places(words))


def _split(name, label_names, documents, examples, train, validation, test, seed) -> Task:
    """Makes a task, with test examples from held-out documents, and training and validation ones from others."""
    generator = np.random.Generator(np.random.Philox(key=[seed, len(name)]))
    own = [document for document in documents if not held_out(document)]
    for_validation = {document.name for document in own if held_out(document, 0.25)}
    parts = {
        "train": ([document for document in own if document.name not in for_validation], train),
        "validation": ([document for document in own if document.name in for_validation], validation),
        "test": ([document for document in documents if held_out(document)], test),
    }
    return Task(
        name, label_names, **{key: examples(part, count, generator) for key, (part, count) in parts.items()}
    )


def module(
    documents: Sequence[Document], *, train: int, validation: int, test: int, seed: int, smallest: int = 100
) -> Task:
    """Makes the task of telling which module of the standard library a sentence documents.

    The module's own name is masked. The sentences of these modules (`module_documents`) are divided among the three
    parts, so that none of these documents may be used in pretraining.
    """
    by_module: dict[str, list[str]] = {}
    for document in module_documents(documents, smallest):
        name = document.name.split(".")[0]
        pattern = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
        by_module.setdefault(name, []).extend(pattern.sub("[MASK]", text) for text in document.sentences)
    names = tuple(sorted(by_module))
    if len(names) < 2:
        raise InputError(
            f"fewer than two modules have {smallest} sentences of documentation: no task 'module'"
        )
    generator = np.random.Generator(np.random.Philox(key=[seed, len("module")]))
    pool: list[Example] = [((text,), label) for label, name in enumerate(names) for text in by_module[name]]
    order = generator.permutation(len(pool))
    chosen = [pool[index] for index in order]
    test_part, rest = chosen[:test], chosen[test:]
    return Task("module", names, rest[validation : validation + train], rest[:validation], test_part)


def module_documents(documents: Sequence[Document], smallest: int = 100) -> list[Document]:
    """Returns the documents of standard-library modules with at least `smallest` sentences."""
    counts: dict[str, int] = {}
    library = [document for document in documents if document.origin == STANDARD_LIBRARY]
    for document in library:
        name = document.name.split(".")[0]
        counts[name] = counts.get(name, 0) + len(document.sentences)
    return [document for document in library if counts[document.name.split(".")[0]] >= smallest]
