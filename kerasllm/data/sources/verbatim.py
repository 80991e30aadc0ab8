"""Reading of verbatim text, with its line breaks, blank lines and spaces, as a stream of pieces.

Pieces end so that their tokens are those of the whole text (see `kerasllm.tokenizers.cutting`).
"""

import codecs
from collections.abc import Iterable, Iterator

from kerasllm.data.sources.text import Piece, not_utf8, refuse_nul, with_end
from kerasllm.tokenizers.cutting import cut_between_words, plain_text


def cut_verbatim(text: str, source: str = "") -> Iterator[Piece]:
    r"""Yields the pieces of a document in memory; an empty document has none.

    Args:
        text: the document; "\r\n" in it becomes "\n".
        source: where the document comes from, for messages.
    """
    yield from _pieces([plain_text(text)], source, 0)


def read_verbatim(blocks: Iterable[bytes], name: str) -> Iterator[Piece]:
    r"""Yields the pieces of a text file, which is one document.

    A byte order mark is removed, and "\r\n" becomes "\n".

    Args:
        blocks: the file's bytes, in parts of any size.
        name: the file's name, for messages.

    Raises:
        InputError: the file is not text (it holds a NUL byte), or not UTF-8.
    """
    yield from _pieces(_decoded(blocks, name), name, 1)


def _pieces(texts: Iterable[str], source: str, line: int) -> Iterator[Piece]:
    parts = cut_between_words(texts)
    part = next(parts, "")
    for following in parts:
        yield Piece(part, False, source, line)
        line += line and part.count("\n")
        part = following
    if part:
        yield Piece(part, True, source, line)


def _decoded(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """Yields the text of a file, block by block."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line, held, begun = 0, 1, "", False
    for block in with_end(blocks):
        refuse_nul(block, name, offset)
        try:
            text = held + decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            content = error.object  # includes the incomplete character at the end of the previous block
            at = offset + len(block) - len(content) + error.start
            number = line + content.count(b"\n", 0, error.start)
            raise not_utf8(f"{name}:{number}", at, content[error.start]) from error
        line += block.count(b"\n")
        offset += len(block)
        if text and not begun:
            text, begun = text.removeprefix("\ufeff"), True
        held = "\r" if block and text.endswith("\r") else ""  # perhaps the first half of a line break
        yield text.removesuffix(held).replace("\r\n", "\n")
