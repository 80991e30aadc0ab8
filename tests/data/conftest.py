"""Encoded texts by hand."""

import numpy as np
import pytest

from kerasllm.data.examples.labelled import EncodedTexts


@pytest.fixture(scope="session")
def encoded():
    """Of some lengths."""

    def make(lengths, sequence_length=64):
        """Texts of these lengths, the tokens of text i being all i + 1."""
        lengths = np.asarray(lengths)
        return EncodedTexts(
            token_ids=np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths),
            segment_ids=np.concatenate([np.arange(n) >= n // 2 for n in lengths]).astype(np.int8),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            sequence_length=sequence_length,
            pad_id=0,
            num_truncated=0,
        )

    return make
