"""A progress bar on standard error, which imports its library only if standard error is a terminal."""

import sys
from types import TracebackType
from typing import Any


class ByteProgress:
    """A progress bar for the tokenization of a corpus, shown if standard error is a terminal.

    Args:
        total: number of bytes of the corpus; None if unknown, which shows only amount and speed.
        enabled: whether to show the bar at all.
    """

    def __init__(self, total: int | None, enabled: bool) -> None:
        self._bar: Any = None
        self._total = total
        self._enabled = enabled and sys.stderr.isatty()

    def __enter__(self) -> "ByteProgress":
        if self._enabled:
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
            self._bar.add_task("tokenizing", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: int) -> None:
        """Advances the bar.

        Args:
            amount: number of bytes done since the last call.
        """
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], amount)
