"""The program of a worker process, which receives pieces of text and returns their tokens.

A worker is a fresh interpreter that imports little more than this module, NumPy and `tokenizers`. It starts in a tenth
of a second, loads no backend, and does not run the user's script again, as `multiprocessing` would. Frames of a JSON
header and raw arrays go over its standard input and output; nothing is unpickled.
"""

import json
import os
import signal
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from kerasllm.data.token_cache.tokenization import UnknownCharacter, make_tokenizer


def write_frame(stream: IO[bytes], header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Writes a frame of a JSON header, which also gets the dtypes and lengths of the arrays, and the 1-D arrays."""
    header = {**header, "arrays": [(array.dtype.str, len(array)) for array in arrays]}
    encoded = json.dumps(header).encode()
    stream.write(struct.pack("<I", len(encoded)))
    stream.write(encoded)
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """Returns the header and arrays of the next frame, or None at the end of the stream.

    Raises:
        EOFError: the stream ends within a frame.
    """
    prefix = stream.read(4)
    if not prefix:
        return None
    header = json.loads(_read_exactly(stream, struct.unpack("<I", prefix)[0]))
    arrays = []
    for kind, length in header.pop("arrays"):
        content = _read_exactly(stream, np.dtype(kind).itemsize * length)
        arrays.append(np.frombuffer(content, dtype=kind))
    return header, arrays


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"the stream ended {size - len(content)} bytes early")
    return content


def main() -> None:
    """Reads a frame with the tokenizer, and then answers each frame of texts with a frame of tokens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which closes the input
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output that a library prints must not get into the frames
    first = read_frame(requests)
    if first is None:
        return
    tokenizer = make_tokenizer(first[0]["reading"], first[0]["tokenizer"], first[0]["dtype"])
    while (frame := read_frame(requests)) is not None:
        content, lengths = frame[1]
        ends = np.cumsum(lengths).tolist()
        encoded = content.tobytes()
        texts = [
            encoded[end - length : end].decode() for end, length in zip(ends, lengths.tolist(), strict=True)
        ]
        try:
            tokenized = tokenizer.tokenize(texts)
        except UnknownCharacter as error:
            write_frame(answers, {"unknown": [error.piece, error.position]})
        except Exception as error:
            write_frame(answers, {"error": f"{type(error).__name__}: {error}"})
        else:
            write_frame(answers, {}, tokenized)
