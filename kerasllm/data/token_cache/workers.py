"""A pool of worker processes that tokenize, each served by a thread, so that no pipe blocks."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from kerasllm.data.token_cache.tokenization import Reading, TokenizedPieces, UnknownCharacter
from kerasllm.data.token_cache.worker_process import read_frame, write_frame

# The package `kerasllm` would load Keras and a backend. In the worker, an empty package of the same name, with the same
# files below it, replaces it.
_BOOTSTRAP = """
import sys, types
package = types.ModuleType("kerasllm")
package.__path__ = [sys.argv[1]]
sys.modules["kerasllm"] = package
from kerasllm.data.token_cache.worker_process import main
main()
"""
_PATIENCE = 5  # seconds that a worker has to end before it is killed


class WorkerPool:
    """A pool of processes that tokenize in parallel; a context manager that ends them in any case.

    Args:
        processes: number of processes.
        reading: "sentences" or "verbatim".
        tokenizer: the tokenizer's JSON.
        dtype: the dtype of the tokens.
    """

    def __init__(self, processes: int, reading: Reading, tokenizer: str, dtype: str) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="tokenize")
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"}
        package = Path(__file__).resolve().parents[2]
        try:
            for _ in range(processes):
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOTSTRAP, str(package)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
                self._processes.append(process)
                self._idle.put(process)
            for process in self._processes:
                self._send(process, {"reading": reading, "tokenizer": tokenizer, "dtype": dtype})
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # pending results are no longer needed, and the threads return at once
            for process in self._processes:
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                try:
                    if stream is not None:
                        stream.close()
                except OSError:
                    pass  # the process is dead and its pipe broken
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def submit(self, texts: Sequence[str]) -> "Future[TokenizedPieces]":
        """Starts tokenizing some pieces, and returns a future of their tokens.

        The future raises RuntimeError if the worker failed or died, and UnknownCharacter if a piece has one.
        """
        return self._threads.submit(self._tokenize, texts)

    def _tokenize(self, texts: Sequence[str]) -> TokenizedPieces:
        process = self._idle.get()
        try:
            encoded = [text.encode() for text in texts]
            content = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            lengths = np.array([len(text) for text in encoded], dtype=np.int64)
            self._send(process, {}, [content, lengths])
            assert process.stdout is not None
            try:
                answer = read_frame(process.stdout)
            except (EOFError, OSError):
                answer = None
            if answer is None:
                raise RuntimeError(_obituary(process))
            header, arrays = answer
            if "unknown" in header:
                raise UnknownCharacter(*header["unknown"])
            if "error" in header:
                raise RuntimeError(f"a tokenizing process failed: {header['error']}")
            return TokenizedPieces(*arrays)
        finally:
            self._idle.put(process)

    def _send(
        self, process: "subprocess.Popen[bytes]", header: dict[str, Any], arrays: Sequence[np.ndarray] = ()
    ) -> None:
        assert process.stdin is not None
        try:
            write_frame(process.stdin, header, arrays)
        except OSError as error:
            raise RuntimeError(_obituary(process)) from error


def _obituary(process: "subprocess.Popen[bytes]") -> str:
    try:
        code: int | None = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        code = None
    reason = "killed by signal 9, perhaps for want of memory" if code == -9 else f"exit code {code}"
    return f"a tokenizing process died ({reason}); run again, with fewer processes if memory is short"
