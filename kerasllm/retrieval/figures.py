"""Figures of retrieval, as trec_eval and ir-measures compute them.

Documents are ordered by score, and those of equal scores by id, backwards, as in trec_eval. A query of the judgements
that the run lacks counts as 0, and so does one without a relevant document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np


def retrieval_figures(
    gains: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Returns the figures of a run, each the mean over the queries of the judgements.

    Args:
        gains: for each query the gains of the judged documents; above 0 is relevant.
        run: for each query the scores of the documents that were found.

    Returns:
        `ndcg@10` (with the gain itself in the numerator, and ideal lists over all judged documents), `map`, `mrr`,
        `mrr@10`, and the share of the relevant documents among the first 1, 10 and 100, `recall@1` and so on. All are
        shares in [0, 1].

    Reference: Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418, for nDCG.
    """
    found = [_of_query(own, ranked(run.get(query, {}))) for query, own in gains.items()]
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]} if found else {}


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Returns the documents, best first."""
    return sorted(scores, key=lambda document: (np.float32(scores[document]), document), reverse=True)


def _of_query(gains: Mapping[str, int], documents: Sequence[str]) -> dict[str, float]:
    """Returns the figures of one query."""
    found = [max(gains.get(document, 0), 0) for document in documents]
    relevant = sum(gain > 0 for gain in gains.values())
    ranks = [rank for rank, gain in enumerate(found, 1) if gain > 0]
    ideal = _discounted(sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:10])
    figures = {
        "ndcg@10": _discounted(found[:10]) / ideal if ideal else 0.0,
        "map": sum(number / rank for number, rank in enumerate(ranks, 1)) / max(relevant, 1),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "mrr@10": 1 / ranks[0] if ranks and ranks[0] <= 10 else 0.0,
    }
    for count in (1, 10, 100):
        figures[f"recall@{count}"] = sum(rank <= count for rank in ranks) / max(relevant, 1)
    return figures


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
