"""Encoding of texts to token ids in flat arrays, which take a few bytes per token and need no padding.

Truncation is that of the `tokenizers` library, so that predictions here and with `transformers` use the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.tokenizers.encoding import refusing
from kerasllm.tokenizers.known_characters import naming_characters
from kerasllm.tokenizers.special_tokens import end_of_text_id

_CHUNK = 1024  # texts that the tokenizer gets at a time


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Texts as token ids in flat arrays, one after the other.

    Args:
        token_ids: int32 (tokens,), with special tokens, without padding.
        segment_ids: int8 (tokens,), 0 for [CLS] A [SEP], 1 for B [SEP].
        offsets: int64 (texts + 1,), the positions where texts begin in the two arrays, and the end of the last one.
        sequence_length: the most tokens of a text.
        pad_id: the padding token.
        num_truncated: number of texts that were truncated.
    """

    token_ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray
    sequence_length: int
    pad_id: int
    num_truncated: int

    def __len__(self) -> int:
        """Returns the number of texts, or of pairs."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each text, int64 (texts,)."""
        return np.diff(self.offsets)


def _number(number: int) -> str:
    return f"text {number + 1}"


def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[tuple[str, ...]],
    sequence_length: int,
    place: Callable[[int], str] = _number,
) -> EncodedTexts:
    """Returns texts or pairs as tokens; a pair that is too long loses tokens at the end of its longer text first.

    Args:
        tokenizer: the tokenizer, which adds its special tokens, and is not changed.
        texts: tuples of one text or of two.
        sequence_length: the most tokens of a text or pair, with special tokens.
        place: returns where a text comes from, by its number, from 0; for messages.

    Raises:
        InputError: `sequence_length` leaves no room for a token of each text, or a character is unknown.
    """
    padding = tokenizer.token_to_id("[PAD]")
    pairs = any(len(text) == 2 for text in texts)
    room = sequence_length - tokenizer.num_special_tokens_to_add(pairs)
    if room < (2 if pairs else 1):
        raise InputError(
            f"sequence_length {sequence_length} leaves no room for text between the special tokens"
        )
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.enable_truncation(sequence_length, strategy="longest_first")
    token_ids, segment_ids, lengths = [], [], [0]
    num_truncated = 0
    for start in range(0, len(texts), _CHUNK):
        chunk = [text if len(text) == 2 else text[0] for text in texts[start : start + _CHUNK]]
        with (
            refusing("a text cannot be tokenized"),
            naming_characters(tokenizer, texts[start : start + _CHUNK], start, place),
        ):
            encodings = own.encode_batch(chunk)
        lengths += [len(encoding) for encoding in encodings]
        token_ids.append(np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings]))
        segment_ids.append(np.concatenate([np.array(encoding.type_ids, np.int8) for encoding in encodings]))
        num_truncated += sum(bool(encoding.overflowing) for encoding in encodings)
    return EncodedTexts(
        token_ids=np.concatenate(token_ids) if token_ids else np.zeros(0, np.int32),
        segment_ids=np.concatenate(segment_ids) if segment_ids else np.zeros(0, np.int8),
        offsets=np.cumsum(lengths, dtype=np.int64),
        sequence_length=sequence_length,
        pad_id=end_of_text_id(tokenizer) if padding is None else padding,
        num_truncated=num_truncated,
    )
