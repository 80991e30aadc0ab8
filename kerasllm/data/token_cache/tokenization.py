"""Tokenizing pieces of text, sentence by sentence or verbatim."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.sentences import split_paragraphs
from kerasllm.data.token_cache.known_words import KnownWords
from kerasllm.tokenizers.characters import character_ids
from kerasllm.tokenizers.known_characters import KnownCharacters

Reading = Literal["sentences", "verbatim"]


class TokenizedPieces(NamedTuple):
    """Returns the tokens of some pieces.

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
    """Tokenizes pieces, without special tokens."""

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """The tokens of some pieces.

        Raises:
            UnknownCharacter: there is one that the tokenizer does not know, verbatim only.
        """


def make_tokenizer(reading: Reading, description: str, dtype: str) -> PieceTokenizer:
    """Makes the tokenizer of pieces for one of the two readings.

    Args:
        reading: "sentences" or "verbatim".
        description: the tokenizer's JSON.
        dtype: of the tokens.
    """
    kind = SentenceTokenizer if reading == "sentences" else VerbatimTokenizer
    return kind(description, dtype)


class VerbatimTokenizer:
    """Tokenizes texts as they are.

    Args:
        description: the tokenizer's JSON.
        dtype: of the tokens, an unsigned integer.
    """

    def __init__(self, description: str, dtype: str) -> None:
        self._words = KnownWords(plain_tokenizer(description), dtype)
        parsed = json.loads(description)
        self._known_characters = KnownCharacters(parsed)
        characters = character_ids(parsed)
        self._id_of_code: np.ndarray | None = None
        if characters is not None:  # a table in place of the library: a hundred times as fast
            self._id_of_code = np.zeros(max(map(ord, characters), default=0) + 1, dtype=dtype)
            for character, number in characters.items():
                self._id_of_code[ord(character)] = number

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Tokenizes pieces.

        Args:
            texts: any.

        Raises:
            UnknownCharacter: there is one that the tokenizer does not know.
        """
        for number, text in enumerate(texts):
            unknown = self._known_characters.first_unknown(text)
            if unknown is not None:
                raise UnknownCharacter(number, unknown)
        if self._id_of_code is not None:
            codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
            tokens, lengths = self._id_of_code[codes], np.array([len(text) for text in texts], np.int64)
        else:
            tokens, lengths = self._words.encode(texts)
        return TokenizedPieces(tokens, lengths, np.ones(len(texts), np.int64))


class SentenceTokenizer:
    """Splits texts into sentences and these into tokens, without special tokens.

    Args:
        description: the tokenizer's JSON.
        dtype: of the tokens, "uint16" or "uint32".
    """

    def __init__(self, description: str, dtype: str) -> None:
        self._words = KnownWords(plain_tokenizer(description), dtype)

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Tokenizes pieces; sentences without tokens are dropped.

        Args:
            texts: paragraphs separated by line breaks.
        """
        sentences_by_piece = [split_paragraphs(text) for text in texts]
        sentences = list(chain.from_iterable(sentences_by_piece))
        tokens, lengths = self._words.encode(sentences)
        piece_of_sentence = np.repeat(np.arange(len(texts)), [len(piece) for piece in sentences_by_piece])
        kept = lengths > 0
        sentences_per_piece = np.bincount(piece_of_sentence[kept], minlength=len(texts))
        return TokenizedPieces(tokens, lengths[kept], sentences_per_piece.astype(np.int64))


def plain_tokenizer(description: str) -> Tokenizer:
    """Makes a tokenizer that neither cuts nor pads, and to which "[MASK]" in a text is text.

    Args:
        description: the tokenizer's JSON.
    """
    tokenizer = Tokenizer.from_str(description)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
