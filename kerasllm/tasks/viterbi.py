"""The most likely sequence of tags among those that a scheme allows.

Reference: Viterbi 1967, https://doi.org/10.1109/TIT.1967.1054010.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasllm.data.sources.tag_schemes import Scheme, may_follow


def legal_transitions(
    label_names: Sequence[str], scheme: Scheme
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which tags may follow one another.

    Args:
        label_names: the tags.
        scheme: their scheme.

    Returns:
        bool (tags, tags), whether the second may follow the first; bool (tags,), whether a tag may begin a sentence;
        and bool (tags,), whether it may end one.
    """
    pairs = np.array([[may_follow(one, other, scheme) for other in label_names] for one in label_names])
    first = np.array([may_follow(None, tag, scheme) for tag in label_names])
    return pairs, first, np.array([may_follow(tag, None, scheme) for tag in label_names])


def decode_legal(
    scores: np.ndarray, lengths: np.ndarray, label_names: Sequence[str], scheme: Scheme
) -> list[np.ndarray]:
    """Returns for each sentence the legal tags with the greatest sum of scores; all sentences at a time.

    Args:
        scores: float (words, tags), the log-probabilities of the words of all sentences, one after another.
        lengths: int (sentences,), the number of words of each.
        label_names: the tags.
        scheme: their scheme.
    """
    pairs, first, last = (np.where(legal, 0.0, -np.inf) for legal in legal_transitions(label_names, scheme))
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(-lengths, kind="stable")  # the longest first, so that those still running are a prefix
    sizes, starts = lengths[order], starts[order]
    longest = int(sizes[0]) if len(sizes) else 0
    count = len(label_names)
    best = np.zeros((len(sizes), count))
    before = np.zeros((longest, len(sizes), count), np.int32)
    for position in range(longest):
        running = int((sizes > position).sum())
        here = scores[starts[:running] + position]
        if position == 0:
            best[:running] = here + first
            continue
        paths = best[:running, :, None] + pairs  # (sentences, tag before, tag)
        before[position, :running] = paths.argmax(axis=1)
        best[:running] = paths.max(axis=1) + here
    tags = (best + last).argmax(axis=1)
    found = np.zeros((len(sizes), longest), np.int64)
    for position in range(longest - 1, -1, -1):
        running = int((sizes > position).sum())
        found[:running, position] = tags[:running]
        if position:
            tags[:running] = before[position, np.arange(running), tags[:running]]
    decoded: list[np.ndarray] = [np.zeros(0, np.int64)] * len(sizes)
    for number, row, size in zip(order, found, sizes, strict=True):
        decoded[number] = row[:size]
    return decoded
