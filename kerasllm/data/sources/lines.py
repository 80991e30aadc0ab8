"""Reading of text files as numbered lines, so that errors can name their place.

Lines end at a line feed. A lone carriage return ends lines only in a file that has no line feed at all, as it may
belong to a text elsewhere; formats in which it cannot divide the lines further with `split_at_returns`. Python's
`str.splitlines` would also split at a dozen other characters, which do occur in the texts of data sets.
"""

import difflib
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from kerasllm.errors import InputError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MARK = b"\x1f\x8b"


def require_file(source: str) -> Path:
    """Returns the path of an existing file.

    Raises:
        InputError: there is no such file, or it is a directory or a pipe.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        files = sorted(
            file.name for file in path.iterdir() if file.is_file() and not file.name.startswith(".")
        )
        inside = f" ({', '.join(files[:5])})" if files else ""
        raise InputError(f"{source}: is a directory; name one of its files{inside}")
    if path.exists():
        raise InputError(f"{source}: is not a file")
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, beside, n=1)
    meant = f"; did you mean {path.with_name(nearest[0])}?" if nearest else ""
    raise InputError(f"{source}: no such file{meant}")


def split_at_returns(line: str) -> list[str]:
    r"""Returns the lines that lone carriage returns end within a line, each with its line break.

    Args:
        line: a line, which may end in "\n" or "\r\n".
    """
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", line)


def text_lines(source: str) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and the text of each line with its line break, without a byte order mark.

    Args:
        source: a UTF-8 file, compressed with gzip if its name ends in `.gz`.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not text in UTF-8.
    """
    path = require_file(source)
    offset = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            _require_text(source, cast(io.BufferedReader, file).peek(4096)[:4096])
            for number, raw in enumerate(file, 1):
                if b"\0" in raw:
                    raise InputError(
                        f"{source}:{number}: holds a NUL byte, so this is a binary file or damaged"
                    )
                try:
                    line = raw.removeprefix(_BYTE_ORDER_MARK if number == 1 else b"").decode("utf-8")
                except UnicodeDecodeError as error:
                    start = error.start + (len(raw) - len(error.object))
                    raise InputError(
                        f"{source}:{number}: byte {start + 1} of the line (byte {offset + start + 1} of the "
                        f"file), {raw[start]:#04x}, is not UTF-8; convert the file, e.g. with "
                        "iconv -f WINDOWS-1252 -t UTF-8"
                    ) from error
                offset += len(raw)
                if number == 1 and "\r" in line and not line.endswith("\n"):
                    yield from enumerate(split_at_returns(line), 1)
                else:
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{source}: broken gzip file: {error}; fetch or compress it again") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error


def input_lines() -> Iterator[str]:
    """Yields the lines of standard input with their line breaks, without a byte order mark.

    Raises:
        InputError: it is not text in UTF-8.
    """
    try:
        for number, line in enumerate(sys.stdin, 1):
            yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input: byte {error.object[error.start]:#04x} is not UTF-8; convert it, e.g. with "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def _require_text(source: str, beginning: bytes) -> None:
    """Refuses a binary file by its beginning, before its first line is read."""
    if beginning.startswith(_UTF16_MARKS):
        raise InputError(f"{source}: is UTF-16; convert it with iconv -f UTF-16 -t UTF-8")
    if beginning.startswith(_GZIP_MARK):
        raise InputError(f"{source}: is compressed with gzip; add .gz to its name")
    if b"\0" in beginning:
        raise InputError(f"{source}: holds NUL bytes, so this is a binary file, not text")
