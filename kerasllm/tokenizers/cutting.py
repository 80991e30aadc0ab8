"""Cutting of long texts into parts that give the same tokens as the whole text with a byte-level BPE.

A part ends where such a tokenizer ends a word whatever follows: before white space that comes after something else.
GPT-2's expression matches no word that begins with something else and ends in white space, and looks ahead only from
white space. The same holds for the expressions of Llama 3 and GPT-4 between two words.
"""

import re
from collections.abc import Iterable, Iterator

PART_SIZE = 1 << 16  # characters; a tokenizer needs some hundred times as much memory
_LONGEST = 16 * PART_SIZE  # characters of a part without a place to cut
_SEARCHED = 1 << 12  # characters before the end in which a place between two words is sought
_BETWEEN_WORDS = re.compile(r"[^\W\d_](?= [^\W\d_])")
_BEFORE_WHITE_SPACE = re.compile(r"\S(?=[\n \t])")


def cut_between_words(texts: Iterable[str]) -> Iterator[str]:
    """Yields a text in parts of at most `PART_SIZE` characters, or longer ones where there is no place to cut.

    Args:
        texts: the text, in parts of any size.
    """
    pending, start = "", 0
    for text in texts:
        pending, start = pending[start:] + text, 0
        while len(pending) - start > PART_SIZE and (end := _place_to_cut(pending, start)):
            yield pending[start:end]
            start = end
    if len(pending) > start:
        yield pending[start:]


def plain_text(text: str) -> str:
    r"""Returns the text with "\n" for "\r\n", and with "?" for the halves of characters that no encoding has."""
    return without_surrogates(text).replace("\r\n", "\n")


def without_surrogates(text: str) -> str:
    """Returns the text with "?" for the halves of characters that JSON may hold and that no encoding has."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _place_to_cut(text: str, start: int) -> int:
    """Returns the end of the part that begins at `start`, or 0 if more text is needed to find it."""
    limit = start + PART_SIZE
    for pattern, floor in (
        (_BETWEEN_WORDS, max(start, limit - _SEARCHED)),
        (_BEFORE_WHITE_SPACE, max(start, limit - _SEARCHED)),
        (_BEFORE_WHITE_SPACE, start),
    ):
        end = 0
        for found in pattern.finditer(text, floor, limit):
            end = found.end()
        if end:
            return end
    longest = start + max(_LONGEST, PART_SIZE)
    later = _BEFORE_WHITE_SPACE.search(text, limit - 1, longest)
    if later:
        return later.end()
    return longest if len(text) > longest else 0
