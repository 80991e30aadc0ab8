"""Decoding of a continuation to text while it is generated, and cutting it off at stop texts.

A tokenizer may decode a token differently at the beginning of a text (Llama's removes the first space), and a
character's bytes may be spread over several tokens. So prompt and continuation are always decoded together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # decoders write this for bytes of an incomplete character
_CONTEXT = 8  # tokens before new ones that they are decoded with


def prompt_and_addition(tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> tuple[str, str]:
    """Returns the text of a prompt, and the text that new tokens add to it.

    Args:
        tokenizer: a tokenizer of the `tokenizers` library.
        prompt: the ids of the prompt.
        new: the ids that follow it.
    """
    before = tokenizer.decode(list(prompt))
    whole = tokenizer.decode([*prompt, *new])
    if not whole.startswith(before):
        before = before.rstrip(_INCOMPLETE)  # new tokens have completed a character
    if whole.startswith(before):
        return before, whole[len(before) :]
    return before, tokenizer.decode(list(new))  # the decoder changes the text before new tokens


def cut_at(text: str, stop: Sequence[str]) -> str | None:
    """Returns the text up to the first stop text, or None if it contains none.

    Args:
        text: the text of the new tokens.
        stop: the stop texts.
    """
    places = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(places)] if places else None


def settled(text: str, stop: Sequence[str]) -> str:
    """Returns the part of a text that no further token can change or cut off.

    Args:
        text: the text of the new tokens, which contains no stop text.
        stop: the stop texts; the end of `text` may be the beginning of one.
    """
    text = text.rstrip(_INCOMPLETE)
    longest = min(max(map(len, stop), default=1) - 1, len(text))
    for length in range(longest, 0, -1):
        if any(mark.startswith(text[-length:]) for mark in stop):
            return text[:-length]
    return text


class AddedText:
    """The text that new tokens add to a prompt, decoded as they come; each token costs the same, however long it is.

    Args:
        tokenizer: a tokenizer of the `tokenizers` library.
        prompt: the ids of the prompt.

    Attributes:
        text: the text so far, without the bytes of an incomplete character at its end.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self.text = ""
        self._tokenizer, self._before = tokenizer, list(prompt[-_CONTEXT:])
        self._new: list[int] = []

    def add(self, token: int) -> None:
        """Adds a token."""
        self._new.append(token)
        added = self._pending()
        if added and not added.endswith(_INCOMPLETE):
            self.text += added
            self._before, self._new = [*self._before, *self._new][-_CONTEXT:], []

    def end(self) -> str:
        """Returns the whole text, with what is incomplete at its end."""
        return self.text + (self._pending() if self._new else "")

    def _pending(self) -> str:
        return prompt_and_addition(self._tokenizer, self._before, self._new)[1]
