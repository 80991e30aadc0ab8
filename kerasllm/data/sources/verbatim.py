"""Text as it is, line breaks, blank lines and spaces included, as a stream of pieces.

A piece ends where a byte-level BPE ends a word whatever follows: before white space that follows a letter, so
that the pieces, tokenised one by one, give the tokens of the whole. GPT-2's expression lets no word end in white
space that began with something else, and looks ahead from white space only; the same holds for those of Llama 3
and GPT-4 between two words.
"""

import codecs
import re
from collections.abc import Iterable, Iterator

from kerasllm.data.sources.lines import without_surrogates
from kerasllm.data.sources.text import Piece, not_utf8, refuse_nul, with_end

RAW_PIECE_SIZE = 1 << 16  # characters: a tokenizer takes some hundred times as much memory
_LONGEST = 16 * RAW_PIECE_SIZE  # of a piece without a place to cut
_SEARCHED = 1 << 12  # characters before the end in which a place between two words is sought
_BETWEEN_WORDS = re.compile(r"[^\W\d_](?= [^\W\d_])")
_BEFORE_WHITE_SPACE = re.compile(r"\S(?=[\n \t])")


def cut_raw(text: str, source: str = "", size: int | None = None) -> Iterator[Piece]:
    r"""Yields the pieces of one document that is in memory; nothing for an empty one.

    Args:
        text: the document; "\r\n" in it becomes "\n".
        source: where it is from, for messages.
        size: characters a piece, `RAW_PIECE_SIZE` unless given.
    """
    yield from _pieces([without_surrogates(text).replace("\r\n", "\n")], source, 0, size or RAW_PIECE_SIZE)


def read_raw(blocks: Iterable[bytes], name: str, size: int | None = None) -> Iterator[Piece]:
    r"""Yields the pieces of a text file, which is one document.

    Of the text only a byte order mark is lost, and "\r\n" becomes "\n".

    Args:
        blocks: the file's bytes, in parts of any size.
        name: the file's, for messages.
        size: characters a piece, `RAW_PIECE_SIZE` unless given.

    Raises:
        InputError: not text (a NUL byte), or not UTF-8.
    """
    yield from _pieces(_decoded(blocks, name), name, 1, size or RAW_PIECE_SIZE)


def _pieces(texts: Iterable[str], source: str, line: int, size: int) -> Iterator[Piece]:
    pending, start = "", 0
    for text in texts:
        pending, start = pending[start:] + text, 0
        while len(pending) - start > size and (end := _place_to_cut(pending, start, size)):
            piece = Piece(pending[start:end], False, source, line)
            yield piece
            line += line and piece.text.count("\n")
            start = end
    if len(pending) > start:
        yield Piece(pending[start:], True, source, line)


def _place_to_cut(text: str, start: int, size: int) -> int:
    """The end of the piece that begins at `start`; 0 where more text is needed to find one."""
    limit = start + size
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
    longest = start + max(_LONGEST, size)
    later = _BEFORE_WHITE_SPACE.search(text, limit - 1, longest)
    if later:
        return later.end()
    return longest if len(text) > longest else 0


def _decoded(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """The text of a file, block by block."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line, held, begun = 0, 1, "", False
    for block in with_end(blocks):
        refuse_nul(block, name, offset)
        try:
            text = held + decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            content = error.object  # with the beginning of a character that the block before ended in
            at = offset + len(block) - len(content) + error.start
            number = line + content.count(b"\n", 0, error.start)
            raise not_utf8(f"{name}:{number}", at, content[error.start]) from error
        line += block.count(b"\n")
        offset += len(block)
        if text and not begun:
            text, begun = text.removeprefix("\ufeff"), True
        held = "\r" if block and text.endswith("\r") else ""  # perhaps the first half of a line break
        yield text.removesuffix(held).replace("\r\n", "\n")
