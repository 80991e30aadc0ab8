"""Encoding of words to token ids, with the place of each word's first token.

A sentence that is longer than a row is cut into overlapping windows, between words. Each word is judged once: in the
window where it has the most context on its poorer side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import Encoding, Tokenizer

from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.errors import InputError
from kerasllm.tokenizers.wordpiece import special_token_ids

_CHUNK = 1024  # sentences that the tokenizer gets at a time


@dataclass(frozen=True, eq=False)
class EncodedWords:
    """Sentences as windows of tokens, with the words that are judged in each.

    Args:
        windows: the windows, as texts; a sentence has one or more.
        words: int64 (tokens,), for each token of the windows the index, over all sentences, of the word that is judged
            at it; -1 for all other tokens.
        num_words: int64 (sentences,), the number of words in each sentence.
        num_lost: number of words that the tokenizer turns into nothing, which are not judged.
        num_cut: number of sentences that needed more than one window.
    """

    windows: EncodedTexts
    words: np.ndarray
    num_words: np.ndarray
    num_lost: int
    num_cut: int


@dataclass(frozen=True, eq=False)
class TextWords:
    """The words of raw texts.

    Args:
        bounds: for each text the (start, end) of its words, in characters.
        encoded: the words as tokens.
    """

    bounds: list[list[tuple[int, int]]]
    encoded: EncodedWords


def encode_words(
    tokenizer: Tokenizer,
    sentences: Sequence[Sequence[str]],
    sequence_length: int,
    *,
    stride: int | None = None,
) -> EncodedWords:
    """Returns sentences that are divided into words as tokens.

    Args:
        tokenizer: a WordPiece tokenizer, which is not changed.
        sentences: the words of each sentence.
        sequence_length: the most tokens of a window, with special tokens.
        stride: tokens that neighboring windows share; None means a quarter of a window.

    Raises:
        InputError: `sequence_length` leaves no room for a word.
    """
    own = _plain(tokenizer)
    encodings = (
        encoding
        for start in range(0, len(sentences), _CHUNK)
        for encoding in own.encode_batch(
            [list(words) for words in sentences[start : start + _CHUNK]],
            is_pretokenized=True,
            add_special_tokens=False,
        )
    )
    counts = np.array([len(words) for words in sentences], np.int64)
    return _windows(tokenizer, encodings, counts, sequence_length, stride)


def encode_raw_words(
    tokenizer: Tokenizer, texts: Sequence[str], sequence_length: int, *, stride: int | None = None
) -> TextWords:
    """Returns the words of texts, as the tokenizer divides them, and their tokens; see `encode_words`."""
    encodings = _plain(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    bounds = [_word_bounds(encoding) for encoding in encodings]
    counts = np.array([len(words) for words in bounds], np.int64)
    return TextWords(bounds, _windows(tokenizer, encodings, counts, sequence_length, stride))


def encode_divided_words(
    tokenizer: Tokenizer, texts: Sequence[str], sequence_length: int, *, stride: int | None = None
) -> TextWords:
    """Returns the words of texts, divided by single spaces, and their tokens; see `encode_words`."""
    sentences = [text.split(" ") for text in texts]
    encoded = encode_words(tokenizer, sentences, sequence_length, stride=stride)
    return TextWords([divided_words(text) for text in texts], encoded)


def divided_words(text: str) -> list[tuple[int, int]]:
    """Returns the bounds of the words of a text, in characters, between its single spaces."""
    ends = list(itertools.accumulate(len(word) + 1 for word in text.split(" ")))
    return [(start, end - 1) for start, end in itertools.pairwise([0, *ends])]


def split_words(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Returns the bounds of the words of a text, in characters, as the tokenizer divides it."""
    return _word_bounds(_plain(tokenizer).encode(text, add_special_tokens=False))


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a copy of a tokenizer that neither pads nor truncates."""
    return _plain_copy(tokenizer, tokenizer.get_vocab_size())


@lru_cache(maxsize=4)
def _plain_copy(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """Returns the copy, cached by identity and size of the tokenizer: one of BERT's takes a tenth of a second."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.no_truncation()
    return own


def _word_bounds(encoding: Encoding) -> list[tuple[int, int]]:
    """Returns the first and the last character of each word of an encoded text."""
    bounds: list[tuple[int, int]] = []
    before = None
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word == before:
            bounds[-1] = bounds[-1][0], max(end, bounds[-1][1])
        else:
            bounds.append((start, end))
        before = word
    return bounds


def _windows(
    tokenizer: Tokenizer,
    encodings: Iterable[Encoding],
    counts: np.ndarray,
    sequence_length: int,
    stride: int | None,
) -> EncodedWords:
    """Returns the windows of encoded sentences."""
    special = special_token_ids(tokenizer)
    room = sequence_length - 2
    if room < 1:
        raise InputError(
            f"sequence_length {sequence_length} leaves no room for a word between [CLS] and [SEP]"
        )
    overlap = room // 4 if stride is None else stride
    if not 0 <= overlap < room:
        raise InputError(f"stride is {overlap}, it must be below the {room} tokens of a window's words")
    ids: list[np.ndarray] = []
    words: list[np.ndarray] = []
    lengths = [0]
    num_cut = 0
    cls, sep = np.array([special.cls], np.int32), np.array([special.sep], np.int32)
    nothing = np.array([-1])
    for encoding, first_word in zip(encodings, np.cumsum(counts) - counts, strict=True):
        tokens = np.array(encoding.ids, np.int32)
        of_token = np.array(encoding.word_ids, np.int64)
        begins = np.flatnonzero(np.diff(of_token, prepend=-1))  # the first token of each word
        bounds = _cuts(begins, len(tokens), room, overlap)
        num_cut += len(bounds) > 1
        judge = _best_window(begins, bounds)
        for number, (start, end) in enumerate(bounds):
            judged = np.full(end - start, -1, np.int64)
            own = begins[judge == number]
            judged[own - start] = first_word + of_token[own]
            ids += [cls, tokens[start:end], sep]
            words += [nothing, judged, nothing]
            lengths.append(end - start + 2)
    all_words = np.concatenate(words)
    num_lost = int(counts.sum() - (all_words >= 0).sum())
    flat = np.concatenate(ids)
    windows = EncodedTexts(
        token_ids=flat,
        segment_ids=np.zeros(len(flat), np.int8),
        offsets=np.cumsum(lengths, dtype=np.int64),
        sequence_length=sequence_length,
        pad_id=special.pad,
        num_truncated=0,
    )
    return EncodedWords(windows, all_words, counts, num_lost, num_cut)


def _cuts(begins: np.ndarray, length: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """Returns the first token and the end of each window of a sentence.

    Windows begin and end between words where words are shorter than a window.

    Args:
        begins: the first token of each word.
        length: number of tokens of the sentence.
        room: the most tokens of a window.
        overlap: tokens that a window shares with the one before, at least, if words are short.
    """
    if length <= room:
        return [(0, length)]
    edges = np.append(begins, length)
    bounds = []
    start = 0
    while True:
        end = int(edges[np.searchsorted(edges, start + room, side="right") - 1])
        if end <= start:
            end = start + room  # a single word fills the window; its other tokens are left out
        bounds.append((start, end))
        if end >= length:
            return bounds
        if end not in edges:
            start = int(edges[np.searchsorted(edges, end)])
            if start >= length:
                return bounds
            continue
        following = int(edges[np.searchsorted(edges, end - overlap, side="right") - 1])
        start = following if following > start else end


def _best_window(begins: np.ndarray, bounds: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns for each word the window where its first token is farthest from an edge that cuts the sentence."""
    starts, ends = np.array(bounds).T
    before = begins[:, None] - starts  # (words, windows), tokens of context
    after = ends - 1 - begins[:, None]
    context = np.minimum(before, after)
    context[(before < 0) | (after < 0)] = -1
    return context.argmax(axis=1)
