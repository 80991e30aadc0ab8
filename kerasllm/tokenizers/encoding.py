"""Encoding of texts to token ids, with clear errors for texts that a tokenizer cannot encode."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from tokenizers import Encoding, Tokenizer

from kerasllm.errors import InputError
from kerasllm.tokenizers.added_tokens import added_ids
from kerasllm.tokenizers.known_characters import KnownCharacters, unknown_character

_RENAMED = 0.01  # of a vocabulary's tokens
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Returns one more than the greatest id, the size that a model's embedding needs, as ids may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def check_vocabulary(tokenizer: Tokenizer, model_size: int, place: Any) -> None:
    """Checks that the model has an embedding for the tokenizer's greatest id.

    Args:
        tokenizer: a tokenizer of any kind.
        model_size: the model's vocabulary size.
        place: the model's directory, for the message.

    Raises:
        InputError: the tokenizer has more tokens than the model.
    """
    size = vocabulary_size(tokenizer)
    if size > model_size:
        raise InputError(
            f"{place}: the tokenizer has {size} tokens, the model {model_size}: they do not belong together; "
            "copy the model anew"
        )


def differing_token(vocabulary: dict[str, int], other: dict[str, int]) -> str | None:
    """Returns a token that tells that two vocabularies are not one; None if they agree, save for tokens that one lacks.

    One token in a hundred may have been renamed, such as the unused ones of BERT.

    Args:
        vocabulary: the tokens and their ids.
        other: likewise.
    """
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    moved = next(
        (token for token in tokens if other.get(token, vocabulary[token]) != vocabulary[token]), None
    )
    if moved is not None:
        return moved
    by_id = {number: token for token, number in other.items()}
    strange = [token for token in tokens if by_id.get(vocabulary[token], token) != token]
    return strange[0] if len(strange) > _RENAMED * len(tokens) else None


def encode(tokenizer: Tokenizer, text: str, place: str = "", *, special_tokens: bool = False) -> list[int]:
    """Returns the ids of a text, without any that the tokenizer would add.

    The arguments and errors are those of `encoding_of`.
    """
    return encoding_of(tokenizer, text, place, special_tokens=special_tokens).ids


def encode_from_beginning(tokenizer: Tokenizer, text: str, place: str = "") -> list[int]:
    """Returns the ids of a text that a model continues, in which special tokens are recognized by name.

    They begin with the tokens that the tokenizer's post-processor puts before a text, once, also if the text begins
    with them already. A tokenizer that adds none, such as GPT-2's, gets none. Tokens that it would add after a text
    are left out, as the text goes on.

    Args:
        tokenizer: the tokenizer.
        text: any text; an empty one gives the beginning alone.
        place: where the text comes from, for messages.

    Raises:
        InputError: as for `encoding_of`.
    """
    ids = encode(tokenizer, text, place, special_tokens=True)
    beginning, _ = added_ids(tokenizer)
    return ids if ids[: len(beginning)] == beginning else beginning + ids


def encoding_of(
    tokenizer: Tokenizer, text: str, place: str = "", *, special_tokens: bool = False
) -> Encoding:
    """Returns the encoding of a text, with ids and offsets, without tokens that the tokenizer would add.

    Args:
        tokenizer: the tokenizer, whose settings are the same afterwards.
        text: any text.
        place: where the text comes from, for messages: "prompts.txt:3".
        special_tokens: whether names such as "<|endoftext|>" in the text are encoded as special tokens.

    Raises:
        InputError: the tokenizer does not know a character, or is damaged.
    """
    half = _HALF_PAIR.search(text)
    if half is not None:
        raise InputError(
            f"{place or 'text'}: holds half of a surrogate pair (U+{ord(half[0]):04X}), which is no character; "
            "take it out"
        )
    unknown = _known_characters(tokenizer, tokenizer.get_vocab_size()).first_unknown(
        text, skip_special=special_tokens
    )
    if unknown is not None:
        raise unknown_character(text[unknown], place)
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = not special_tokens
    try:  # some tokenizers without [UNK] raise an error
        with refusing(f"{place or 'text'}: cannot be tokenized"):
            return tokenizer.encode(text, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = before


@lru_cache(maxsize=4)
def _known_characters(tokenizer: Tokenizer, size: int) -> KnownCharacters:
    """Returns the known characters, cached by identity and size of the tokenizer: GPT-2's take half a second."""
    return KnownCharacters(json.loads(tokenizer.to_str()))


@contextmanager
def refusing(words: str) -> Iterator[None]:
    """Turns errors of the `tokenizers` library into `InputError`, also Rust's panics, which are no Exceptions.

    Args:
        words: the beginning of the message.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, InputError):
            raise
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise InputError(f"{words}: {error}") from error
        raise
