"""Tokens as text while they come: what they add to a prompt, and where a stop text cuts it off.

A tokenizer may write a token differently at the beginning of a text (Llama's takes the first space away), and
a character's bytes may be spread over tokens. So prompt and continuation are decoded together, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what decoders write for bytes that are no character yet


def prompt_and_addition(tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> tuple[str, str]:
    """The text of a prompt, and what new tokens add to it.

    Args:
        tokenizer: of the `tokenizers` library.
        prompt: ids.
        new: ids that follow.
    """
    before = tokenizer.decode(list(prompt))
    whole = tokenizer.decode([*prompt, *new])
    if not whole.startswith(before):
        before = before.rstrip(_INCOMPLETE)  # new tokens have completed a character
    if whole.startswith(before):
        return before, whole[len(before) :]
    return before, tokenizer.decode(list(new))  # a decoder that changes what stood before


def cut_at(text: str, stop: Sequence[str]) -> str | None:
    """The text up to the first stop text; None if there is none in it.

    Args:
        text: of new tokens.
        stop: at which it is cut off.
    """
    places = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(places)] if places else None


def settled(text: str, stop: Sequence[str]) -> str:
    """As much of a text as no further token can change or cut off.

    Args:
        text: of new tokens; without a stop text.
        stop: texts, of which the end of `text` may be the beginning.
    """
    text = text.rstrip(_INCOMPLETE)
    longest = min(max(map(len, stop), default=1) - 1, len(text))
    for length in range(longest, 0, -1):
        if any(mark.startswith(text[-length:]) for mark in stop):
            return text[:-length]
    return text
