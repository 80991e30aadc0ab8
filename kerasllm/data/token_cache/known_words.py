"""Tokenization with a cache of words, as a few thousand words make up most of any text.

If a tokenizer encodes each word separately, a word is encoded once and then looked up, which gives the same ids several
times as fast. Words here may differ from the tokenizer's own, as long as none of its words extends over two of ours.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer

WordSplitter = Callable[[Sequence[str]], list[list[str]] | None]

_ENCODED_AT_A_TIME = 2048  # texts; an encoding takes about 50 times the memory of its ids
_CHARACTERS_KEPT = 1 << 21  # characters of known words, each of which takes about 30 bytes more
_PUNCTUATION = ",.;:!?'\"-()"
_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1f\x85]")

# GPT-2's expression, `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, for ASCII words
# without adjacent non-ASCII characters. The last line takes all other text up to a place where a word certainly ends:
# before white space that follows something else.
_GPT2_WORDS = re.compile(
    r"""
    '(?:[stmd]|re|ve|ll)
    |\ ?(?:[A-Za-z]++|[0-9]++|[!-/:-@\[-`{-~\x00-\x08\x0e-\x1f\x7f]++)(?![^\x00-\x7f])
    |(?![\t-\r\ ]++[^\x00-\x7f])(?:[\t-\r\ ]+(?![^\t-\r\ ])|[\t-\r])
    |[\s\S]+?(?:(?<=\S)(?=[\t-\r\ ])|\Z)
    """,
    re.VERBOSE,
)


class _Numbers(dict[str, int]):
    """The numbers of words; a word that is looked up for the first time gets the next number."""

    def __init__(self) -> None:
        super().__init__()
        self._new: list[str] = []

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        self._new.append(word)
        return number

    def take_new(self) -> list[str]:
        """Returns the words that were added since the last call, in the order of their numbers."""
        new, self._new = self._new, []
        return new


class KnownWords:
    """A tokenizer with a cache of words of limited size, which uses the library directly where words do not work.

    Args:
        tokenizer: a tokenizer without truncation and padding that treats special tokens in a text as text.
        dtype: the dtype of the tokens, an unsigned integer.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: str) -> None:
        self._tokenizer = tokenizer
        self._dtype = dtype
        self.split = word_splitter(json.loads(tokenizer.to_str()))
        self._forget()

    def _forget(self) -> None:
        """Clears the cache of words."""
        self._numbers = _Numbers()
        self._ids = np.empty(0, dtype=self._dtype)  # the ids of word 0, word 1, …
        self._starts = np.empty(0, dtype=np.int64)
        self._lengths = np.empty(0, dtype=np.int64)
        self._num_characters = 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of all texts, without special tokens, and the number of tokens of each text.

        Args:
            texts: the texts; for WordPiece, none may have a line break.
        """
        words_by_text = self.split(texts) if self.split is not None else None
        if words_by_text is None:
            return _encode_all(self._tokenizer, texts, self._dtype)
        if self._num_characters > _CHARACTERS_KEPT:
            self._forget()
        words = list(chain.from_iterable(words_by_text))
        numbers = np.fromiter(map(self._numbers.__getitem__, words), dtype=np.int64, count=len(words))
        if new := self._numbers.take_new():
            try:
                ids, lengths = _encode_all(self._tokenizer, new, self._dtype)
            except BaseException:  # the new words have numbers but no tokens
                self._forget()
                raise
            self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
            self._lengths = np.concatenate([self._lengths, lengths])
            self._ids = np.concatenate([self._ids, ids])
            self._num_characters += sum(map(len, new))
        lengths = self._lengths[numbers]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # The position of each token in the table, counted from the start of its word.
        positions = np.arange(ends[-1]) + np.repeat(self._starts[numbers] - ends[:-1], lengths)
        last_words = np.cumsum([0, *map(len, words_by_text)])
        return self._ids[positions], np.diff(ends[last_words])


def word_splitter(description: dict[str, Any]) -> WordSplitter | None:
    """Returns a function that splits texts into words that a tokenizer encodes separately, or None.

    Args:
        description: the tokenizer's JSON, parsed.

    Returns:
        A function that returns the words of each text, or None if the tokenizer must encode these texts as a whole.
    """
    if not all(token["special"] for token in description.get("added_tokens") or ()):
        return None
    model, normalizer = description["model"], description.get("normalizer") or {}
    before = description.get("pre_tokenizer") or {}
    if (
        model.get("type") == "WordPiece"
        and before.get("type") == "BertPreTokenizer"
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
    ):
        return _bert_words
    if (
        model.get("type") == "BPE"
        and not model.get("dropout")
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", True) is True
        and before.get("add_prefix_space") is False
        and not normalizer
    ):
        return _gpt2_words
    return None


def _bert_words(texts: Sequence[str]) -> list[list[str]] | None:
    """Returns the words of texts without line breaks, split at white space and punctuation."""
    joined = "\n".join(texts)
    # Python splits at these control characters, which BERT deletes; they are rare, so the library does it.
    if _SEPARATORS.search(joined):
        return None
    for mark in _PUNCTUATION:  # for BERT they are words too; splitting here gives fewer different words
        joined = joined.replace(mark, f" {mark} ")
    return [line.split() for line in joined.split("\n")] if texts else []


def _gpt2_words(texts: Sequence[str]) -> list[list[str]]:
    """Returns the words of texts as GPT-2's expression splits them, with the space before them."""
    return [_GPT2_WORDS.findall(text) for text in texts]


def _encode_all(tokenizer: Tokenizer, texts: Sequence[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of all texts and the number of tokens of each text, encoded by the library."""
    tokens = [np.empty(0, dtype=dtype)]
    lengths: list[int] = []
    for start in range(0, len(texts), _ENCODED_AT_A_TIME):
        batch = tokenizer.encode_batch_fast(
            list(texts[start : start + _ENCODED_AT_A_TIME]), add_special_tokens=False
        )
        ids = [encoding.ids for encoding in batch]
        lengths += map(len, ids)
        tokens.append(np.fromiter(chain.from_iterable(ids), dtype=dtype))
    return np.concatenate(tokens), np.array(lengths, dtype=np.int64)
