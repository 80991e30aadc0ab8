"""Conversion of prompts, texts or token ids in several forms, to checked lists of token ids."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from kerasllm.errors import InputError
from kerasllm.tokenizers.encoding import encode_from_beginning
from kerasllm.tokenizers.known_characters import unknown_character


def read_prompts(
    prompts: Any, tokenizer: Any, end_token_id: int | None, first: int = 0
) -> tuple[str, list[list[int]]]:
    """Returns the form of the result ("text", "texts", "row", "array" or "lists"), and the prompts as lists of ids.

    Args:
        prompts: the prompts, as `generate` takes them.
        tokenizer: the tokenizer for texts, or None.
        end_token_id: the end token, which replaces an empty text if the tokenizer puts no token before a text; None if
            the model has none.
        first: number of prompts before these, for messages.

    Raises:
        InputError: there are texts without a tokenizer, unknown characters, or ids that are no whole numbers.
    """
    listed = isinstance(prompts, list | tuple)
    if isinstance(prompts, str) or (listed and any(isinstance(prompt, str) for prompt in prompts)):
        if tokenizer is None:
            raise InputError("a text as prompt needs the tokenizer: give tokenizer=…")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [_encode(tokenizer, text, f"prompt {number}") for number, text in enumerate(texts, first + 1)]
        rows = [row if row or end_token_id is None else [end_token_id] for row in rows]
        return ("text" if isinstance(prompts, str) else "texts"), rows
    if listed and any(isinstance(prompt, list | tuple | np.ndarray) for prompt in prompts):
        lists = [_whole_numbers(row, f"prompt {number}") for number, row in enumerate(prompts, first + 1)]
        return ("array" if len({len(row) for row in lists}) == 1 else "lists"), lists
    try:
        array = np.asarray(prompts if listed else ops.convert_to_numpy(prompts))
    except Exception as error:  # each backend raises its own errors
        raise InputError(
            f"prompts of type {type(prompts).__name__}: give texts, or whole numbers, (batch, length)"
        ) from error
    if array.ndim not in (1, 2) or not (array.size == 0 or np.issubdtype(array.dtype, np.integer)):
        raise InputError(
            f"prompts of shape {array.shape} and type {array.dtype}: give whole numbers, (batch, length)"
        )
    return ("array", array.tolist()) if array.ndim == 2 else ("row", [array.tolist()])


def check_tokens(
    rows: list[list[int]], stop_token_ids: Iterable[int], vocabulary: int, first: int = 0
) -> None:
    """Checks that the model has all tokens of the prompts and all stop tokens.

    Args:
        rows: the prompts as lists of ids.
        stop_token_ids: the stop tokens.
        vocabulary: the size of the model's vocabulary.
        first: number of prompts before these, for messages.

    Raises:
        InputError: there is no prompt, a prompt is empty, or a token is unknown.
    """
    if not rows:
        raise InputError("there is no prompt")
    for number, row in enumerate(rows, first + 1):
        if not row:
            raise InputError(f"prompt {number} is empty: give at least one token")
        wrong = next((token for token in row if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise InputError(
                f"prompt {number} holds token {wrong}, the model has tokens 0 to {vocabulary - 1}"
            )
    for token in stop_token_ids:
        if not 0 <= token < vocabulary:
            raise InputError(f"stop_token_ids holds {token}, the model has tokens 0 to {vocabulary - 1}")


def check_room(
    prompts: Iterable[tuple[str, str]], tokenizer: Any, new_tokens: int | None, positions: int
) -> None:
    """Checks that every prompt leaves room for its continuation, before any of them is continued.

    Args:
        prompts: the place, for messages, and the text of each prompt.
        tokenizer: the model's tokenizer.
        new_tokens: the number of new tokens; None checks for at least one.
        positions: the number of positions that the model has.

    Raises:
        InputError: a prompt is too long, or holds an unknown character.
    """
    for place, text in prompts:
        tokens = max(len(encode_from_beginning(tokenizer, text, place)), 1)
        if tokens + (new_tokens or 1) > positions:
            room = f"--max_new_tokens {new_tokens}" if new_tokens else "one new token"
            raise InputError(
                f"{place}: a prompt of {tokens} tokens and {room} do not fit into the model's {positions} "
                f"positions: shorten {'one of them' if new_tokens else 'it'}"
            )


def _whole_numbers(row: Any, place: str) -> list[int]:
    try:
        return [operator.index(token) for token in row]  # `int` would accept 1.7 and "3"
    except TypeError as error:
        raise InputError(f"{place} is {row!r}: give a list of whole numbers") from error


def _encode(tokenizer: Any, text: Any, place: str) -> list[int]:
    """Returns the ids of a text from its beginning, in which special tokens are recognized by name.

    As a prompt is short, each of its characters is checked, which `encode` does only for common kinds of tokenizers.
    """
    if not isinstance(text, str):
        raise InputError(f"{place} is {text!r} among texts: give texts alone, or lists of whole numbers")
    try:
        ids = encode_from_beginning(tokenizer, text, place)
    except InputError as error:
        # An error without a cause is from `encode` itself, and names the character already.
        unknown = None if error.__cause__ is None else _first_unknown(tokenizer, text)
        if unknown is None:
            raise
        raise unknown_character(unknown, place) from error
    if tokenizer.normalizer is None:  # a normalizer may remove characters on purpose
        unknown = _first_unknown(tokenizer, text)
        if unknown is not None:
            raise unknown_character(unknown, place)
    return ids


def _first_unknown(tokenizer: Any, text: str) -> str | None:
    """Returns the first character other than white space for which a tokenizer gives no token, or None."""
    # The letters in the names of special tokens may be unknown.
    for token in tokenizer.get_added_tokens_decoder().values():
        text = text.replace(token.content, "")
    for character in dict.fromkeys(text):
        try:
            found = tokenizer.encode(character, add_special_tokens=False).ids
        except Exception:
            return character
        if not found and not character.isspace():
            return character
    return None
