"""Texts by which an exported file is compared with its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError
from kerasllm.models import BertConfig, RecurrentConfig, RecurrentSeq2SeqConfig, Seq2SeqConfig
from kerasllm.tokenizers.encoding import encode_from_beginning

TEXTS = (
    "yes",
    "a good film",
    "what is your name",
    "the cat sat on the mat",
    "she sells shells by the shore",
    "there is no such thing as a free lunch",
    "when the rain had stopped they went out into the garden",
    "he asked for more and was told that there was none left",
    "a man in a red shirt is riding a bicycle down the street",
    "the train to the north leaves at noon and arrives in the evening",
    "it was the best of times and it was the worst of times",
    "nobody knows who built the tower or why it was never finished",
    "please send me the report before the meeting so that i can read it",
    "two children play with a dog on the beach while their parents sleep",
    "the price of bread has risen every month since the end of last summer",
    "if you can keep your head when all about you are losing theirs you will do well",
    "the first snow fell early that year and covered the fields before the harvest was in",
    "we walked for hours through the forest without meeting anyone and found the house at last",
    "a language model gives each word the probability that it comes next after all those before it",
    "in the beginning there was nothing to be seen but water and the light of a few stars far above it",
)
"""Twenty texts of different lengths, in letters and spaces that nearly every tokenizer knows."""

_LONGEST = 64  # tokens of a text that are compared
_AT_A_TIME = 10


def sample_batches(model: Any, tokenizer: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yields the texts as padded batches, by the names of the model's inputs.

    A text that the tokenizer does not know is replaced by as many random tokens.

    Args:
        model: a model.
        tokenizer: its tokenizer.
    """
    config = model.config
    length = min(_LONGEST, config.max_sequence_length)
    for start in range(0, len(TEXTS), _AT_A_TIME):
        texts = TEXTS[start : start + _AT_A_TIME]
        if isinstance(config, BertConfig):
            yield _segments(texts, tokenizer, length, config)
            continue
        rows = [_tokens(tokenizer, text, length, config.vocabulary_size) for text in texts]
        if isinstance(config, Seq2SeqConfig | RecurrentSeq2SeqConfig):
            yield _source_and_target(rows, config)
        elif isinstance(config, RecurrentConfig):
            longest = max(map(len, rows))
            token_ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int32)
            mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int32)
            yield {"token_ids": token_ids, "padding_mask": mask}
        else:
            yield padded_left(rows)


def _segments(texts: Sequence[str], tokenizer: Any, length: int, config: BertConfig) -> dict[str, np.ndarray]:
    """Returns texts, every second one with another as a pair, with padding after them."""
    pairs = [
        (text, TEXTS[index]) if index % 2 and config.num_segments > 1 else (text,)
        for index, text in enumerate(texts)
    ]
    encoded = encode_texts(tokenizer, pairs, length)
    longest = int(encoded.lengths.max())
    token_ids = np.full((len(texts), longest), encoded.pad_id, np.int32)
    found = {name: np.zeros((len(texts), longest), np.int32) for name in ("segment_ids", "padding_mask")}
    for row, (start, end) in enumerate(zip(encoded.offsets, encoded.offsets[1:], strict=False)):
        token_ids[row, : end - start] = encoded.token_ids[start:end]
        found["segment_ids"][row, : end - start] = encoded.segment_ids[start:end]
        found["padding_mask"][row, : end - start] = 1
    return {"token_ids": token_ids, **found}


def _tokens(tokenizer: Any, text: str, length: int, vocabulary_size: int) -> list[int]:
    try:
        found = encode_from_beginning(tokenizer, text)
    except InputError:
        found = []
    if not found:
        draws = np.random.default_rng(len(text))
        found = draws.integers(0, vocabulary_size, max(len(text) // 4, 1)).tolist()
    return found[:length]


def padded_left(rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Returns rows of tokens for a GPT, with padding before them, as it stands when several texts are continued."""
    longest = max(map(len, rows))
    mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows], np.int32)
    token_ids = np.zeros(mask.shape, np.int32)
    token_ids[mask == 1] = np.concatenate([np.array(row, np.int32) for row in rows])
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    return {"token_ids": token_ids, "padding_mask": mask, "position_ids": positions}


def _source_and_target(
    rows: Sequence[Sequence[int]], config: Seq2SeqConfig | RecurrentSeq2SeqConfig
) -> dict[str, np.ndarray]:
    """Returns the texts as sources, and each as the target of the one before it."""
    pad = config.pad_token_id or 0
    longest = max(map(len, rows))
    sources = np.array([[*row, *[pad] * (longest - len(row))] for row in rows], np.int32)
    targets = np.roll(sources, 1, axis=0)
    targets = np.concatenate([np.full((len(rows), 1), pad, np.int32), targets[:, :-1]], axis=1)
    return {
        "encoder_token_ids": sources,
        "decoder_token_ids": targets,
        "encoder_padding_mask": (sources != pad).astype(np.int32),
    }


def real_outputs(
    found: Any, expected: Any, mask: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the outputs of two models at real tokens, float32, in pairs.

    Args:
        found: an array, or arrays by name.
        expected: another one of the same form.
        mask: (batch, length), 1 for the real tokens; outputs of other positions are left out. None for all.

    Raises:
        ValueError: two arrays differ in shape.
    """
    if isinstance(expected, Mapping):
        for name, each in expected.items():
            yield from real_outputs(found[name], each, mask)
        return
    found, expected = (np.asarray(each).astype(np.float32) for each in (found, expected))
    if found.shape != expected.shape:
        raise ValueError(f"outputs have shapes {found.shape} and {expected.shape}")
    if mask is not None and expected.shape[:2] == mask.shape:
        found, expected = found[mask == 1], expected[mask == 1]
    yield found, expected
