"""Reading of plain text as a stream of pieces, in which blank lines end documents.

Bytes are cut before they are decoded, after a line or at a space if possible and never within a character. Errors name
their line and byte.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kerasllm.errors import InputError
from kerasllm.tokenizers.cutting import without_surrogates

PIECE_SIZE = 1 << 20  # bytes or characters; a piece may be slightly longer
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SENTENCE_ENDS = (b". ", b"? ", b"! ", b'." ', "。".encode(), "！".encode(), "？".encode())
_SEARCHED = 1 << 16  # bytes at the end of a very long line in which a place to cut is sought


class Piece(NamedTuple):
    """A document, or a part of a long one.

    Args:
        text: paragraphs separated by line breaks; may be empty in a piece that only ends a document.
        ends_document: whether the next piece belongs to another document.
        source: where the piece comes from, for messages; may be empty.
        line: the line of the source in which the piece begins, from 1; 0 if the source has no lines.
    """

    text: str
    ends_document: bool
    source: str = ""
    line: int = 0

    def place(self, position: int) -> str:
        """Returns the place of the character at `position` for messages, "text.txt:12" for example."""
        if not self.line:
            return self.source
        return f"{self.source}:{self.line + self.text.count(chr(10), 0, position)}"


def cut(text: str) -> Iterator[Piece]:
    """Yields the pieces of a document in memory."""
    text = _plain_line_breaks(without_surrogates(text))
    start = 0
    while len(text) - start > PIECE_SIZE:
        end = _end_of_piece(text, start, start + PIECE_SIZE)
        yield Piece(text[start:end], False)
        start = end
    yield Piece(text[start:], True)


def read_text(blocks: Iterable[bytes], name: str) -> Iterator[Piece]:
    """Yields the pieces of a text file; a blank line ends a document, and so does the end of the file.

    Args:
        blocks: the file's bytes, in parts of any size.
        name: the file's name, for messages.

    Raises:
        InputError: the file is not text (it has a NUL byte), or not UTF-8.
    """
    pending = bytearray()
    offset = 0  # the offset of `pending` in the file
    line = 1  # the number of the line in which `pending` begins
    at_line_start, open_document = True, False
    for block in with_end(blocks):
        if block:
            refuse_nul(block, name, offset + len(pending))
            pending += block
            if offset == 0 and len(pending) < 3 and _BYTE_ORDER_MARK.startswith(bytes(pending)):
                continue
            end = pending.rfind(b"\n") + 1
            if end == 0:
                if len(pending) < PIECE_SIZE:
                    continue
                end = _place_to_cut(pending)
        else:
            end = len(pending)
        taken = bytes(pending[:end])
        del pending[:end]
        skipped = 3 if offset == 0 and taken.startswith(_BYTE_ORDER_MARK) else 0
        text = _plain_line_breaks(_decode(taken[skipped:], name, line, offset + skipped))
        # With a line break before the text, a blank line at its start is found like any other. If the text begins in
        # the middle of a line, a line break at its start is its own.
        added = "\n" if at_line_start else ""
        *ended, last = _BLANK_LINES.split(added + text)
        for document in ended:
            if open_document or document.strip():
                yield Piece(document.lstrip(added), True)
            open_document = False
        if last.strip() or (last and open_document and not at_line_start):
            yield Piece(last.lstrip(added), False)
            open_document = True
        offset += end
        line += taken.count(b"\n")
        at_line_start = text.endswith("\n") if text else at_line_start
    if open_document:
        yield Piece("", True)


def first_words(text: str, most: int = 40) -> str:
    """Returns the beginning of a text's first line that is not blank, for an example on a command line.

    Args:
        text: the text; each text of a pair, which a tab separates, is cut for itself.
        most: the most characters.
    """
    line = next((line for line in text.splitlines() if line.strip()), text)
    parts = []
    for part in line.split("\t"):
        words = part.strip().lstrip("-")
        end = words.rfind(" ", 0, most + 1) if len(words) > most else len(words)
        parts.append(words[: end if end > 0 else most])
    return "\t".join(parts)


def with_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the blocks that are not empty, and at last an empty one, which marks the end."""
    for block in blocks:
        if block:
            yield block
    yield b""


def refuse_nul(block: bytes, name: str, offset: int) -> None:
    """Raises InputError for a file that is not text.

    Args:
        block: a part of the file.
        name: the file's name.
        offset: the offset of the block in the file.
    """
    if b"\0" in block:
        raise InputError(
            f"{name}: byte {offset + block.index(0)} is NUL: a binary file, or UTF-16 "
            "(iconv -f UTF-16 -t UTF-8 makes text of it)"
        )


def not_utf8(place: str, offset: int, value: int) -> InputError:
    """Returns the error that names a byte of a file by its place (file and line), offset and value."""
    return InputError(
        f"{place}: byte {offset} of the file (0x{value:02x}) is not UTF-8; "
        "convert the file, e.g. iconv -f WINDOWS-1252 -t UTF-8"
    )


def _end_of_piece(text: str, start: int, limit: int) -> int:
    """Returns where to cut a document before `limit`: after a line, else a sentence, else a word, else at `limit`."""
    near = max(start, limit - _SEARCHED)
    for marks in (("\n",), (". ", "? ", "! ", "。", "！", "？"), (" ",)):
        end = max(found + len(mark) if (found := text.rfind(mark, near, limit)) >= 0 else 0 for mark in marks)
        if end > start:
            return end
    return limit


def _place_to_cut(line: bytearray) -> int:
    """Returns where to cut an incomplete line: after a sentence, else a word, else a character."""
    floor = max(0, len(line) - _SEARCHED)
    found = max(line.rfind(mark, floor) + len(mark) if mark in line[floor:] else 0 for mark in _SENTENCE_ENDS)
    found = found or line.rfind(b" ", floor) + 1
    if found:
        return found
    end = len(line)
    while end > 1 and line[end - 1] & 0xC0 == 0x80:  # within a character
        end -= 1
    return end - 1 if end > 1 else len(line)


def _decode(content: bytes, name: str, line: int, offset: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number = line + content.count(b"\n", 0, error.start)
        raise not_utf8(f"{name}:{number}", offset + error.start, content[error.start]) from error


def _plain_line_breaks(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
