"""Tokenising pieces of text, sentence by sentence or verbatim."""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.characters import character_ids
from kerasllm.data.coverage import Coverage
from kerasllm.data.sentences import split_paragraphs

Reading = Literal["sentences", "verbatim"]

_ENCODED_AT_A_TIME = 2048  # an encoding takes some 50 times the memory of its ids
_CHARACTERS_KEPT = 1 << 21  # of known words, which take some 30 bytes more each
_PUNCTUATION = ",.;:!?'\"-()"
_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1f\x85]")


class TokenizedPieces(NamedTuple):
    """The tokens of some pieces.

    Args:
        tokens: unsigned (tokens,), of all sentences in order.
        sentence_lengths: int64 (sentences,), in tokens; none is zero.
        sentences_per_piece: int64 (pieces,).

    Verbatim, a piece counts as one sentence, which may be empty.
    """

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    sentences_per_piece: np.ndarray


class UnknownCharacter(Exception):
    """A piece holds a character that the tokenizer does not know.

    Args:
        piece: its number among those given.
        position: the character's in it.
    """

    def __init__(self, piece: int, position: int) -> None:
        super().__init__(f"character {position} of piece {piece}")
        self.piece, self.position = piece, position


class PieceTokenizer(Protocol):
    """Tokenises pieces, without special tokens."""

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """The tokens of some pieces.

        Raises:
            UnknownCharacter: there is one that the tokenizer does not know, verbatim only.
        """


def make_tokenizer(reading: Reading, description: str, dtype: str) -> PieceTokenizer:
    """The tokenizer of pieces for one of the two readings.

    Args:
        reading: "sentences" or "verbatim".
        description: the tokenizer's JSON.
        dtype: of the tokens.
    """
    kind = SentenceTokenizer if reading == "sentences" else VerbatimTokenizer
    return kind(description, dtype)


class VerbatimTokenizer:
    """Tokenises texts as they are.

    Args:
        description: the tokenizer's JSON.
        dtype: of the tokens, an unsigned integer.
    """

    def __init__(self, description: str, dtype: str) -> None:
        self._tokenizer = plain_tokenizer(description)
        self._dtype = dtype
        parsed = json.loads(description)
        self._coverage = Coverage(parsed)
        characters = character_ids(parsed)
        self._id_of_code: np.ndarray | None = None
        if characters is not None:  # a table in place of the library: a hundred times as fast
            self._id_of_code = np.zeros(max(map(ord, characters), default=0) + 1, dtype=dtype)
            for character, number in characters.items():
                self._id_of_code[ord(character)] = number

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Tokenises pieces.

        Args:
            texts: any.

        Raises:
            UnknownCharacter: there is one that the tokenizer does not know.
        """
        for number, text in enumerate(texts):
            unknown = self._coverage.first_unknown(text)
            if unknown is not None:
                raise UnknownCharacter(number, unknown)
        if self._id_of_code is not None:
            codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
            tokens, lengths = self._id_of_code[codes], np.array([len(text) for text in texts], np.int64)
        else:
            tokens, lengths = encode_all(self._tokenizer, texts, self._dtype)
        return TokenizedPieces(tokens, lengths, np.ones(len(texts), np.int64))


class SentenceTokenizer:
    """Splits texts into sentences and these into tokens, without special tokens.

    BERT's pipeline treats every word between white space by itself, and a few thousand words make up most of
    any text: each is tokenised once and looked up ever after, which gives the same ids several times as fast.
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
            tokens, lengths = encode_all(self._tokenizer, sentences, self._dtype)
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
            ids, lengths = encode_all(self._tokenizer, new, self._dtype)
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


def encode_all(tokenizer: Tokenizer, texts: Sequence[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all texts and the number of each one's, by way of the library.

    Args:
        tokenizer: as `plain_tokenizer` gives it.
        texts: any.
        dtype: of the tokens.
    """
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
