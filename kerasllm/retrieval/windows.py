"""Windows of a passage's sentences: a passage is found by the best of them, of which each is about less."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kerasllm.data.sources.sentences import split_sentences

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""A function of queries' vectors and a number of results, that returns indices and scores, as `nearest`."""


def sentence_windows(texts: Sequence[str], sentences: int) -> tuple[list[str], np.ndarray]:
    """Returns all runs of so many sentences of each text, and of which text each is.

    Args:
        texts: the texts; one of fewer sentences is a window by itself.
        sentences: number of sentences in a window.

    Returns:
        The windows, and int64 (windows,): the index of each one's text, in ascending order.
    """
    windows, owners = [], []
    for index, text in enumerate(texts):
        parts = split_sentences(text) or [text]
        for start in range(max(len(parts) - sentences, 0) + 1):
            windows.append(" ".join(parts[start : start + sentences]))
            owners.append(index)
    return windows, np.array(owners, np.int64)


def by_best_window(search: Search, owners: np.ndarray) -> Search:
    """Returns a search for texts, whose score is that of their best window.

    Args:
        search: the search for windows.
        owners: the index of each window's text, as `sentence_windows` returns them.

    Reference: "MaxP" of Dai and Callan 2019, https://arxiv.org/abs/1905.09217.
    """
    most = int(np.bincount(owners).max(initial=1))

    def best(queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        places, scores = search(queries, count * most)  # which always hold as many texts as are asked for
        rows = [_first_of_each(own, owners) for own in places]
        width = min(count, max(map(len, rows), default=0))
        found = np.full((len(rows), width), -1, np.int64)
        best_scores = np.full((len(rows), width), -np.inf, np.float32)
        for row, chosen in enumerate(rows):
            chosen = chosen[:width]
            found[row, : len(chosen)] = owners[places[row, chosen]]
            best_scores[row, : len(chosen)] = scores[row, chosen]
        return found, best_scores

    return best


def _first_of_each(places: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Returns where in a row of windows, best first, each text occurs first; a place of -1 is none."""
    valid = np.flatnonzero(places >= 0)
    _, first = np.unique(owners[places[valid]], return_index=True)
    return valid[np.sort(first)]
