"""Tasks from documents made by hand: labels, balance, and that no part sees another's documents."""

from collections import Counter

import numpy as np
import pytest

from kerasllm.data.sources.python_docs import STANDARD_LIBRARY, TOPICS, Document
from kerasllm.data.sources.python_docs_tasks import (
    belong_together,
    held_out,
    module,
    module_documents,
    swapped_words,
)
from kerasllm.errors import InputError

SIZES = {"train": 60, "validation": 20, "test": 30}


def make_documents(count=120, length=10):
    """A sentence says which document it is of and where it stands there."""
    documents = []
    for number in range(count):
        sentences = tuple(
            f"Doc{number} at{place} one two three four five six seven end." for place in range(length)
        )
        documents.append(Document(f"topics.{number}", TOPICS, sentences))
    return documents


def make_modules():
    def sentences(name, count):
        return tuple(
            f"The {name} item{number} of {name.upper()} is {name}s or sub{name}." for number in range(count)
        )

    return [
        Document("shelf", STANDARD_LIBRARY, sentences("shelf", 90)),
        Document("shelf.inner", STANDARD_LIBRARY, sentences("shelf", 30)),
        Document("crate", STANDARD_LIBRARY, sentences("crate", 110)),
        Document("small", STANDARD_LIBRARY, sentences("small", 99)),
        Document("topics.crates", TOPICS, sentences("crate", 200)),
    ]


def document_of(text):
    return int(next(word for word in text.split() if word.startswith("Doc"))[3:])


def place_of(text):
    return int(next(word for word in text.split() if word.startswith("at"))[2:])


PARTS = ("train", "validation", "test")


@pytest.mark.parametrize("make", [belong_together, swapped_words])
def test_parts_are_balanced_and_keep_apart(make):
    documents = make_documents()
    task = make(documents, **SIZES, seed=0)
    used = {}
    for name in PARTS:
        part = getattr(task, name)
        assert len(part) == SIZES[name]
        assert Counter(label for _, label in part) == {0: SIZES[name] // 2, 1: SIZES[name] // 2}
        used[name] = {document_of(text) for texts, _ in part for text in texts}
    assert len(task.label_names) == 2
    assert all(held_out(documents[number]) for number in used["test"])
    assert not any(held_out(documents[number]) for number in used["train"] | used["validation"])
    assert not used["train"] & used["validation"]


@pytest.mark.parametrize("make", [belong_together, swapped_words])
def test_deterministic(make):
    documents = make_documents()
    assert make(documents, **SIZES, seed=1) == make(documents, **SIZES, seed=1)
    assert make(documents, **SIZES, seed=1) != make(documents, **SIZES, seed=2)


def test_pairs_are_what_their_labels_say():
    task = belong_together(make_documents(), **SIZES, seed=0)
    assert task.label_names == ("follows", "elsewhere")
    for (first, second), label in (example for name in PARTS for example in getattr(task, name)):
        if label == 0:
            assert document_of(first) == document_of(second) and place_of(second) == place_of(first) + 1
        else:
            assert document_of(first) != document_of(second)


def test_swapped_sentences_are_other_orders_of_the_same_words():
    documents = make_documents()
    originals = {sentence for document in documents for sentence in document.sentences}
    by_words = {tuple(sorted(sentence.split())) for sentence in originals}
    task = swapped_words(documents, **SIZES, seed=0, swaps=1)
    for (text,), label in (example for name in PARTS for example in getattr(task, name)):
        assert tuple(sorted(text.split())) in by_words
        assert (text in originals) == (label == 0)
        assert text.split()[-1] == "end."


def test_two_swaps_never_give_the_sentence_back():
    """A swap undone by the next one would be a wrong label."""
    documents = make_documents(200)
    originals = {sentence for document in documents for sentence in document.sentences}
    task = swapped_words(documents, train=600, validation=100, test=100, seed=3)
    for name in PARTS:
        wrong = [text for (text,), label in getattr(task, name) if (text in originals) != (label == 0)]
        assert not wrong


def test_no_sentence_comes_twice_among_swapped():
    task = swapped_words(make_documents(), **SIZES, seed=0)
    words = [tuple(sorted(text.split())) for name in PARTS for (text,), _ in getattr(task, name)]
    assert len(words) == len(set(words))


def test_modules_hide_their_names():
    """Labels by module, submodules with it; small modules and other origins are no classes."""
    documents = make_modules()
    task = module(documents, train=120, validation=40, test=50, seed=0)
    assert task.label_names == ("crate", "shelf")
    assert [len(getattr(task, name)) for name in PARTS] == [120, 40, 50]
    seen = set()
    for (text,), label in (example for name in PARTS for example in getattr(task, name)):
        name = task.label_names[label]
        assert name not in text.replace(f"sub{name}", "").replace(f"{name}s", "").lower().split()
        assert text.count("[MASK]") == 2
        assert f"sub{name}" in text  # only whole words are hidden
        assert (label, text) not in seen or label == 1  # shelf and shelf.inner share sentences here
        seen.add((label, text))
    names = [document.name for document in module_documents(documents)]
    assert names == ["shelf", "shelf.inner", "crate"]


def test_module_is_deterministic():
    sizes = {"train": 120, "validation": 40, "test": 50}
    assert module(make_modules(), **sizes, seed=0) == module(make_modules(), **sizes, seed=0)
    assert module(make_modules(), **sizes, seed=0) != module(make_modules(), **sizes, seed=1)


def test_too_few_modules():
    with pytest.raises(InputError, match="fewer than two modules"):
        module(make_documents(), train=1, validation=1, test=1, seed=0)


def test_held_out_share_and_nesting():
    """A document held out with a share is held out with every larger one, whatever the corpus."""
    documents = make_documents(2000, 1)
    out = np.array([held_out(document) for document in documents])
    assert 0.12 < out.mean() < 0.18
    more = np.array([held_out(document, 0.25) for document in documents])
    assert 0.22 < more.mean() < 0.28 and (more | ~out).all()
