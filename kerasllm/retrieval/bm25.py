"""BM25 by the package bm25s, with English stop words and Snowball's stemmer.

Reference: Robertson et al. 1995, "Okapi at TREC-3"; Lù 2024, https://arxiv.org/abs/2407.03618.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.errors import InputError, require


class BM25:
    """An index of words.

    Args:
        retriever: the `bm25s.BM25` that holds it.
        stemmer: the name of Snowball's stemmer and of bm25s' stop words, "english" for example; None for neither.
    """

    def __init__(self, retriever: Any, stemmer: str | None) -> None:
        self._retriever, self.stemmer = retriever, stemmer

    @classmethod
    def build(
        cls, texts: Sequence[str], *, stemmer: str | None = "english", k1: float = 1.5, b: float = 0.75
    ) -> BM25:
        """Returns an index of texts.

        Args:
            texts: the texts, at least one.
            stemmer: as for the class.
            k1: how soon more occurrences of a word in a text count no more.
            b: how much the length of a text counts, in [0, 1].

        Raises:
            InputError: bm25s is not installed, or the texts hold no word.
        """
        retriever = _package().BM25(k1=k1, b=b, method="lucene")
        words = _words(texts, stemmer)
        if not any(words):
            raise InputError("the documents hold no word to search for")
        retriever.index(words, show_progress=False)
        return cls(retriever, stemmer)

    @classmethod
    def load(cls, directory: Path, stemmer: str | None) -> BM25:
        """Returns an index that `save` wrote, mapped into memory.

        Raises:
            InputError: bm25s is not installed, or the files are damaged.
        """
        try:
            return cls(_package().BM25.load(directory, mmap=True, load_corpus=False), stemmer)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{directory}: no index of bm25s ({error}); build it anew") from error

    def save(self, directory: Path) -> None:
        """Writes the index to a directory."""
        self._retriever.save(directory, show_progress=False)

    def search(self, queries: Sequence[str], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best texts for each query.

        Args:
            queries: the queries.
            count: number of texts to find for each.

        Returns:
            int64 and float32 (queries, count or fewer): the indices of the texts and the scores, best first; -1 and 0
            where no more texts have a word of the query.
        """
        count = min(count, int(self._retriever.scores["num_docs"]))
        known = self._retriever.vocab_dict
        words = [[word for word in own if word in known] for own in _words(queries, self.stemmer)]
        places = np.full((len(queries), count), -1, np.int64)
        scores = np.zeros((len(queries), count), np.float32)
        for number, own in enumerate(words):
            if not own:
                continue
            found = self._retriever.get_scores(own)
            order = np.argsort(-found, kind="stable")[:count]
            order = order[found[order] > 0]
            places[number, : len(order)], scores[number, : len(order)] = order, found[order]
        return places, scores


def _words(texts: Sequence[str], stemmer: str | None) -> list[list[str]]:
    """Returns the words of each text, without stop words and stemmed."""
    package = _package()
    stem = None
    if stemmer:
        require("stemming", "retrieval", "Stemmer")
        import Stemmer

        try:
            stem = Stemmer.Stemmer(stemmer)
        except KeyError as error:
            raise InputError(f"stemmer {stemmer!r}: Snowball has no such language") from error
    stop = "en" if stemmer == "english" else None
    return package.tokenize(list(texts), stopwords=stop, stemmer=stem, return_ids=False, show_progress=False)


def _package() -> Any:
    require("BM25", "retrieval", "bm25s")
    import bm25s

    return bm25s
