"""Tells what a corpus is, and on standard error how far its tokenization has come.

A terminal gets a bar, whose library is imported only then; a log file gets a line every ten seconds. The lines about
the corpus itself go to standard output, since a mistake in the settings is told on standard error in one line alone.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from kerasllm.data.sources.corpus import Corpus

_SECONDS_BETWEEN_LINES = 10.0
_MOST_NAMES = 3


class CorpusReport:
    """Lines about a corpus: that it is tokenized now, or that it was before, and where its tokens are kept.

    Args:
        corpus: the corpus.
        enabled: whether to write anything.
    """

    def __init__(self, corpus: Corpus, enabled: bool) -> None:
        self.corpus = corpus
        self.enabled = enabled
        self._began: float | None = None

    def begin(self) -> None:
        """Writes that the corpus is being tokenized."""
        self._began = time.monotonic()
        self._write(lambda: "tokenizing …")

    def end(self, num_tokens: int, place: Path) -> None:
        """Writes the number of tokens and the directory that holds them."""
        if self._began is None:
            self._write(lambda: f"{num_tokens:,} tokens, from the cache {place}")
            return
        seconds = time.monotonic() - self._began
        self._write(lambda: f"{num_tokens:,} tokens, made in {seconds:.1f} s and kept in {place}")

    def _write(self, text: Callable[[], str]) -> None:
        if self.enabled:
            print(f"corpus {describe(self.corpus)}: {text()}", flush=True)


def describe(corpus: Corpus) -> str:
    """Returns the names and the size of a corpus: `novel.txt, letters.txt (3.4 MB)`."""
    names = corpus.names
    shown = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        shown += f" and {len(names) - _MOST_NAMES:,} more"
    return shown if corpus.size is None else f"{shown} ({_size(corpus.size)})"


def _size(size: float) -> str:
    """Returns a number of bytes with a unit in which it is readable."""
    if size < 1000:
        return f"{size:.0f} bytes"
    power = min(int(math.log10(size)) // 3, 3)
    return f"{size / 1000**power:.1f} {('kB', 'MB', 'GB')[power - 1]}"


class ByteProgress:
    """The progress of a tokenization: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        total: number of bytes of the corpus; None if unknown, which shows only amount and speed.
        enabled: whether to show anything.
        doing: what is done.
    """

    def __init__(self, total: int | None, enabled: bool, doing: str = "tokenizing") -> None:
        self._bar: Any = None
        self._doing = doing
        self._total = total
        self._enabled = enabled
        self._done = 0
        self._shown_at = time.monotonic()

    def __enter__(self) -> "ByteProgress":
        if self._enabled and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(self._doing, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: int) -> None:
        """Advances the display.

        Args:
            amount: number of bytes done since the last call.
        """
        self._done += amount
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], amount)
        elif self._enabled and time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_LINES:
            self._shown_at = time.monotonic()
            share = f" of {_size(self._total)}" if self._total else ""
            print(f"{self._doing}: {_size(self._done)}{share}", file=sys.stderr, flush=True)
