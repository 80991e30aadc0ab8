"""Exact search for the nearest vectors, and fusion of several result lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_BYTES = 1 << 27  # of a block's scores


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vectors with the greatest dot products, in blocks, so that `vectors` may be mapped into memory.

    Args:
        queries: float32 (queries, dim).
        vectors: float32 or float16 (vectors, dim).
        count: number of vectors to find for each query.

    Returns:
        int64 and float32 (queries, count or fewer): the indices of the vectors and the products, best first, and equal
        ones by index; of those that equal the last one, any may be left out.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    count = min(count, len(vectors))
    rows = max(count, _BYTES // (4 * max(len(queries), 1)), 1)
    scores = np.zeros((len(queries), 0), np.float32)
    places = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), rows):
        block = np.asarray(vectors[start : start + rows], np.float32)
        found = queries @ block.T
        own = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        if len(block) > count:
            chosen = np.argpartition(found, len(block) - count, axis=1)[:, len(block) - count :]
            found, own = np.take_along_axis(found, chosen, axis=1), chosen + start
        scores, places = np.concatenate([scores, found], axis=1), np.concatenate([places, own], axis=1)
        order = np.lexsort((places, -scores), axis=1)[:, :count]
        scores, places = np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
    return places, scores


def fuse(
    lists: Sequence[Mapping[str, Sequence[str]]], constant: int = 60
) -> dict[str, list[tuple[str, float]]]:
    """Returns the reciprocal rank fusion of several result lists for the same queries.

    Args:
        lists: for each query the documents, best first.
        constant: is added to each rank; the larger, the less the first places count.

    Returns:
        For each query the documents and the sums of 1 / (constant + rank), best first.

    Reference: Cormack et al. 2009, https://doi.org/10.1145/1571941.1572114.
    """
    fused: dict[str, dict[str, float]] = {}
    for results in lists:
        for query, documents in results.items():
            scores = fused.setdefault(query, {})
            for rank, document in enumerate(documents, 1):
                scores[document] = scores.get(document, 0.0) + 1 / (constant + rank)
    return {
        query: sorted(scores.items(), key=lambda item: item[1], reverse=True)
        for query, scores in fused.items()
    }
