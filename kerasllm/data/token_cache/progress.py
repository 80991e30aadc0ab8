"""A progress bar on standard error that costs nothing, and loads nothing, where nobody would see it."""

import sys
from types import TracebackType
from typing import Any


class ByteProgress:
    """Shows how much of a corpus has been tokenized, if standard error is a terminal.

    Args:
        total: bytes; None where unknown, which shows the amount and the speed alone.
        enabled: False keeps it silent.
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
        """Moves the bar on.

        Args:
            amount: bytes done since the last call.
        """
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], amount)
