"""Tokenization of pieces of text, sentence by sentence or verbatim."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.sentences import sentences_by_paragraph
from kerasllm.data.token_cache.known_words import KnownWords
from kerasllm.tokenizers.characters import character_ids
from kerasllm.tokenizers.known_characters import KnownCharacters

Reading = Literal["sentences", "verbatim"]


class TokenizedPieces(NamedTuple):
    """The tokens of some pieces.

    Args:
        tokens: unsigned integers (tokens,), the tokens of all sentences in order.
        sentence_lengths: int64 (sentences,), the number of tokens in each sentence, never 0.
        sentences_per_piece: int64 (pieces,), the number of sentences in each piece.
        sentences_per_paragraph: int64 (paragraphs,), the number of sentences in each paragraph, never 0; empty if
            pieces are tokenized verbatim.

    If pieces are tokenized verbatim, each counts as one sentence, which may be empty.
    """

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    sentences_per_piece: np.ndarray
    sentences_per_paragraph: np.ndarray


class UnknownCharacter(Exception):
    """The error for a piece with a character that the tokenizer does not know.

    Args:
        piece: the index of the piece.
        position: the position of the character in the piece.
    """

    def __init__(self, piece: int, position: int) -> None:
        super().__init__(f"character {position} of piece {piece}")
        self.piece, self.position = piece, position


class PieceTokenizer(Protocol):
    """A tokenizer of pieces, which adds no special tokens."""

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Returns the tokens of some pieces.

        Raises:
            UnknownCharacter: the tokenizer does not know a character (verbatim only).
        """


def make_tokenizer(reading: Reading, description: str, dtype: str) -> PieceTokenizer:
    """Returns the tokenizer of pieces for one of the two readings.

    Args:
        reading: "sentences" or "verbatim".
        description: the tokenizer's JSON.
        dtype: the dtype of the tokens.
    """
    kind = SentenceTokenizer if reading == "sentences" else VerbatimTokenizer
    return kind(description, dtype)


class VerbatimTokenizer:
    """A tokenizer of verbatim texts.

    Args:
        description: the tokenizer's JSON.
        dtype: the dtype of the tokens, an unsigned integer.
    """

    def __init__(self, description: str, dtype: str) -> None:
        self._words = KnownWords(plain_tokenizer(description), dtype)
        parsed = json.loads(description)
        self._known_characters = KnownCharacters(parsed)
        characters = character_ids(parsed)
        self._id_of_code: np.ndarray | None = None
        if characters is not None:  # a table is a hundred times as fast as the library
            self._id_of_code = np.zeros(max(map(ord, characters), default=0) + 1, dtype=dtype)
            for character, number in characters.items():
                self._id_of_code[ord(character)] = number

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Returns the tokens of some pieces.

        Args:
            texts: the pieces' texts.

        Raises:
            UnknownCharacter: the tokenizer does not know a character.
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
        return TokenizedPieces(tokens, lengths, np.ones(len(texts), np.int64), np.zeros(0, np.int64))


class SentenceTokenizer:
    """A tokenizer that splits texts into sentences, and sentences into tokens without special tokens.

    Args:
        description: the tokenizer's JSON.
        dtype: the dtype of the tokens, "uint16" or "uint32".
    """

    def __init__(self, description: str, dtype: str) -> None:
        self._words = KnownWords(plain_tokenizer(description), dtype)

    def tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        """Returns the tokens of some pieces; sentences without tokens are left out.

        Args:
            texts: paragraphs separated by line breaks.
        """
        pieces = [sentences_by_paragraph(text) for text in texts]
        paragraphs = list(chain.from_iterable(pieces))
        tokens, lengths = self._words.encode(list(chain.from_iterable(paragraphs)))
        kept = lengths > 0
        paragraph_of_sentence = np.repeat(np.arange(len(paragraphs)), [len(each) for each in paragraphs])
        piece_of_paragraph = np.repeat(np.arange(len(texts)), [len(piece) for piece in pieces])
        by_paragraph = np.bincount(paragraph_of_sentence[kept], minlength=len(paragraphs))
        by_piece = np.bincount(piece_of_paragraph, by_paragraph, minlength=len(texts))
        return TokenizedPieces(
            tokens,
            lengths[kept],
            by_piece.astype(np.int64),
            by_paragraph[by_paragraph > 0].astype(np.int64),
        )


def plain_tokenizer(description: str) -> Tokenizer:
    """Returns a tokenizer without truncation and padding, which treats "[MASK]" and the like in a text as text.

    Args:
        description: the tokenizer's JSON.
    """
    tokenizer = Tokenizer.from_str(description)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
