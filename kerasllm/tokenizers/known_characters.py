"""Finding of characters that a tokenizer does not know, which it would silently drop or raise an obscure error for."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import missing_bytes
from kerasllm.tokenizers.characters import character_ids


class KnownCharacters:
    """The characters that a tokenizer knows.

    Args:
        description: the tokenizer's JSON, parsed.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        known = character_ids(description)
        self._known: np.ndarray | None = None  # by code point; the last element stands for all greater ones
        if known is not None:
            self._known = np.zeros(max(map(ord, known), default=0) + 2, dtype=bool)
            self._known[list(map(ord, known))] = True
        self._missing_bytes = np.array(missing_bytes(description), dtype=np.intp)
        special = sorted((token["content"] for token in description.get("added_tokens") or ()), key=len)
        self._special = re.compile("|".join(map(re.escape, reversed(special)))) if special else None

    def first_unknown(self, text: str, *, skip_special: bool = False) -> int | None:
        """Returns the position of the first character that the tokenizer does not know, or None if it knows all.

        Args:
            text: any text.
            skip_special: whether names of special tokens in the text are skipped, as they stand for the tokens.
        """
        if self._known is None and not len(self._missing_bytes):
            return None
        spans = self._between_special(text) if skip_special and self._special else iter([(0, len(text))])
        found = (self._first_within(text, start, stop) for start, stop in spans)
        return next((position for position in found if position is not None), None)

    def _between_special(self, text: str) -> Iterator[tuple[int, int]]:
        assert self._special is not None
        start = 0
        for found in self._special.finditer(text):
            yield start, found.start()
            start = found.end()
        yield start, len(text)

    def _first_within(self, text: str, start: int, stop: int) -> int | None:
        if self._known is not None:
            codes = np.frombuffer(text[start:stop].encode("utf-32-le", "surrogatepass"), np.uint32)
            unknown = ~self._known[np.minimum(codes, len(self._known) - 1)]
            return start + int(unknown.argmax()) if unknown.any() else None
        counts = np.bincount(np.frombuffer(text[start:stop].encode(), np.uint8), minlength=256)
        if not counts[self._missing_bytes].any():
            return None
        missing = set(self._missing_bytes.tolist())
        return next(i for i in range(start, stop) if missing.intersection(text[i].encode()))


def unknown_character(character: str, place: str) -> InputError:
    """Returns the error for a character that the tokenizer does not know.

    Args:
        character: a single character.
        place: where it is, "text.txt:12" for example; may be empty.
    """
    before = f"{place}: " if place else ""
    return InputError(
        f"{before}the tokenizer does not know the character {character!r} (U+{ord(character):04X}); "
        "leave it out, or train a tokenizer on text that has it"
    )


@contextmanager
def naming_characters(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], first: int, place: Callable[[int], str]
) -> Iterator[None]:
    """Replaces an error of the block by one that names the character that the tokenizer does not know, if one is there.

    Args:
        tokenizer: the tokenizer.
        texts: the texts that the block encodes, each a tuple of parts.
        first: the number of the first of them, from 0.
        place: returns where a text comes from, by its number.

    Raises:
        InputError: a text has an unknown character; the message names it and its text's place.
    """
    try:
        yield
    except Exception as error:
        known = KnownCharacters(json.loads(tokenizer.to_str()))
        for number, parts in enumerate(texts, first):
            for part in parts:
                position = known.first_unknown(part, skip_special=True)
                if position is not None:
                    raise unknown_character(part[position], place(number)) from error
        raise
