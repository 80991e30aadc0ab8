"""Encoding of texts that belong together; each distinct text is encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.examples.labelled import EncodedTexts, encode_texts
from kerasllm.data.sources.pairs import TextGroups


@dataclass(frozen=True, eq=False)
class EncodedGroups:
    """Texts that belong together, as tokens.

    Args:
        texts: the distinct texts.
        members: int64 (groups, width), for each group the indices of its texts: the anchor, its positive and hard
            negatives. Single texts are pairs of a text with itself.
        scores: float32 (groups,), the scores of graded pairs, or None.
    """

    texts: EncodedTexts
    members: np.ndarray
    scores: np.ndarray | None

    def __len__(self) -> int:
        """Returns the number of groups."""
        return len(self.members)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens in each group, int64 (groups,)."""
        return self.texts.lengths[self.members].sum(axis=1)


def encode_groups(tokenizer: Tokenizer, groups: TextGroups, sequence_length: int) -> EncodedGroups:
    """Returns texts that belong together as tokens.

    Args:
        tokenizer: the tokenizer, which adds its special tokens, and is not changed.
        groups: the texts.
        sequence_length: the most tokens of a text, with special tokens.

    Raises:
        InputError: `sequence_length` leaves no room for text.
    """
    numbers: dict[str, int] = {}
    members = [[numbers.setdefault(text, len(numbers)) for text in group] for group in groups.texts]
    if groups.width == 1:
        members = [[number, number] for (number,) in members]
    encoded = encode_texts(tokenizer, [(text,) for text in numbers], sequence_length)
    return EncodedGroups(encoded, np.array(members, np.int64), groups.scores)
