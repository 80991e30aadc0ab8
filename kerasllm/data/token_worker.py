"""Splitting and tokenising pieces of text; also the whole of what a worker process runs.

A worker is a fresh interpreter that imports this module, NumPy and `tokenizers` and nothing else: it starts
in a tenth of a second, holds no backend, and never runs the user's script again, as `multiprocessing` would.
Frames of a JSON header and raw arrays go over its standard input and output; nothing is unpickled.
"""

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Sequence
from itertools import chain
from typing import IO, Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sentences import split_paragraphs

_ENCODED_AT_A_TIME = 2048  # an encoding takes some 50 times the memory of its ids
_CHARACTERS_KEPT = 1 << 21  # of known words, which take some 30 bytes more each
_PUNCTUATION = ",.;:!?'\"-()"
_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1f\x85]")


class TokenizedPieces(NamedTuple):
    """The tokens of some pieces.

    Args:
        tokens: uint16 or uint32 (tokens,), of all sentences in order.
        sentence_lengths: int64 (sentences,), in tokens; none is zero.
        sentences_per_piece: int64 (pieces,).
    """

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    sentences_per_piece: np.ndarray


class PieceTokenizer:
    """Splits texts into sentences and these into tokens, without special tokens.

    BERT's pipeline treats every word between white space by itself, and a few thousand words make up most of
    any
    text: each is tokenised once and looked up ever after, which gives the same ids several times as fast.
        Other pipelines go through the library sentence by sentence.

    Args:
        description: the tokenizer's JSON.
        dtype: of the tokens, "uint16" or "uint32".
    """

    def __init__(self, description: str, dtype: str) -> None:
        self._tokenizer = plain_tokenizer(description)
        self._dtype = dtype
        self._by_word = _is_word_by_word(json.loads(description))
        self._forget()

    def _forget(self) -> None:
        """Starts the table of known words anew."""
        self._numbers: dict[str, int] = {}
        self._ids = np.empty(0, dtype=self._dtype)  # of word 0, word 1, ...
        self._starts = np.empty(0, dtype=np.int64)
        self._lengths = np.empty(0, dtype=np.int64)
        self._num_characters = 0

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Tokenises pieces; sentences without tokens are dropped.

        Args:
            texts: paragraphs separated by line breaks.
        """
        sentences_by_piece = [split_paragraphs(text) for text in texts]
        sentences = list(chain.from_iterable(sentences_by_piece))
        # Python splits at these control characters where BERT deletes them: they are too rare to be fast.
        if self._by_word and not any(_SEPARATORS.search(text) for text in texts):
            tokens, lengths = self._look_up(sentences)
        else:
            tokens, lengths = self._encode(sentences)
        piece_of_sentence = np.repeat(np.arange(len(texts)), [len(piece) for piece in sentences_by_piece])
        kept = lengths > 0
        sentences_per_piece = np.bincount(piece_of_sentence[kept], minlength=len(texts))
        return TokenizedPieces(tokens, lengths[kept], sentences_per_piece.astype(np.int64))

    def _look_up(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and sentence lengths by way of the table of known words."""
        joined = "\n".join(sentences)  # none holds a line break
        for mark in _PUNCTUATION:  # BERT makes words of them anyway; apart, there are fewer words to know
            joined = joined.replace(mark, f" {mark} ")
        words_by_sentence = [line.split() for line in joined.split("\n")] if sentences else []
        words = list(chain.from_iterable(words_by_sentence))
        if self._num_characters > _CHARACTERS_KEPT:
            self._forget()
        new = list(set(words).difference(self._numbers))
        if new:
            ids, lengths = self._encode(new)
            self._numbers.update(
                zip(new, range(len(self._numbers), len(self._numbers) + len(new)), strict=True)
            )
            self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
            self._lengths = np.concatenate([self._lengths, lengths])
            self._ids = np.concatenate([self._ids, ids])
            self._num_characters += sum(map(len, new))
        numbers = np.fromiter(map(self._numbers.__getitem__, words), dtype=np.int64, count=len(words))
        lengths = self._lengths[numbers]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # Position of each token in the table: on from the start of its word.
        positions = np.arange(ends[-1]) + np.repeat(self._starts[numbers] - ends[:-1], lengths)
        last_words = np.cumsum([0, *map(len, words_by_sentence)])
        return self._ids[positions], np.diff(ends[last_words])

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all texts and the number of each one's, by way of the library."""
        tokens = [np.empty(0, dtype=self._dtype)]
        lengths: list[int] = []
        for start in range(0, len(texts), _ENCODED_AT_A_TIME):
            batch = self._tokenizer.encode_batch_fast(
                texts[start : start + _ENCODED_AT_A_TIME], add_special_tokens=False
            )
            ids = [encoding.ids for encoding in batch]
            lengths += map(len, ids)
            tokens.append(np.fromiter(chain.from_iterable(ids), dtype=self._dtype))
        return np.concatenate(tokens), np.array(lengths, dtype=np.int64)


def plain_tokenizer(description: str) -> Tokenizer:
    """A tokenizer that neither cuts nor pads, and to which "[MASK]" in a text is text.

    Args:
        description: the tokenizer's JSON.
    """
    tokenizer = Tokenizer.from_str(description)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _is_word_by_word(description: dict[str, Any]) -> bool:
    """Whether a tokenizer, given as its JSON, treats each word between white space by itself."""
    normalizer = description.get("normalizer") or {}
    return (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and (description.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and description["model"].get("type") == "WordPiece"
        and all(token["special"] for token in description.get("added_tokens") or ())
    )


def write_frame(stream: IO[bytes], header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Writes a JSON header and one-dimensional arrays, whose kind and length the header tells."""
    header = {**header, "arrays": [(array.dtype.str, len(array)) for array in arrays]}
    encoded = json.dumps(header).encode()
    stream.write(struct.pack("<I", len(encoded)))
    stream.write(encoded)
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """Reads what `write_frame` wrote; None at the end of the stream.

    Raises:
        EOFError: the stream ends within a frame.
    """
    prefix = stream.read(4)
    if not prefix:
        return None
    header = json.loads(_read_exactly(stream, struct.unpack("<I", prefix)[0]))
    arrays = []
    for kind, length in header.pop("arrays"):
        content = _read_exactly(stream, np.dtype(kind).itemsize * length)
        arrays.append(np.frombuffer(content, dtype=kind))
    return header, arrays


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"the stream ended {size - len(content)} bytes early")
    return content


def main() -> None:
    """Serves one parent: a frame with the tokenizer, then frames of texts, each answered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which closes the input
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the frames
    first = read_frame(requests)
    if first is None:
        return
    tokenizer = PieceTokenizer(first[0]["tokenizer"], first[0]["dtype"])
    while (frame := read_frame(requests)) is not None:
        content, lengths = frame[1]
        ends = np.cumsum(lengths).tolist()
        encoded = content.tobytes()
        texts = [
            encoded[end - length : end].decode() for end, length in zip(ends, lengths.tolist(), strict=True)
        ]
        try:
            tokenized = tokenizer.tokenize(texts)
        except Exception as error:
            write_frame(answers, {"error": f"{type(error).__name__}: {error}"})
        else:
            write_frame(answers, {}, tokenized)
