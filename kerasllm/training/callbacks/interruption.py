"""SIGTERM and SIGINT as a wish that training looks at between two steps, not an end amid one."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


class BrokenOff(Exception):
    """What `break_off_if_told` raises."""


class Interruption:
    """Remembers the first signal; a second one ends the process at once.

    Attributes:
        exit_code: None, or 128 + the number of the signal: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Installs the handlers. In any thread but the main one, where Python allows none, does nothing."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
            _listening.append(self)

    def restore(self) -> None:
        """Puts the handlers back that were there before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before = {}
            _listening[:] = [other for other in _listening if other is not self]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Written straight to the descriptor: a signal may come in the middle of a print.
        if self.exit_code is not None:
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # a progress bar hides the cursor
            os._exit(128 + number)
        self.exit_code = 128 + number
        os.write(2, b"\nstopping after this step (once more to exit at once)\n")


_listening: list[Interruption] = []


class Interruptible:
    """A validation's batches, which end with `BrokenOff` when the run is told to stop between two of them.

    A long validation must not keep the run from saving in time.

    Args:
        batches: a sequence, whose other attributes stay available.
    """

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        """Returns batch `index`."""
        break_off_if_told()
        return self._batches[index]

    def batch(self, step: int) -> Any:
        """Returns the whole batch of a step."""
        break_off_if_told()
        return self._batches.batch(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def break_off_if_told() -> None:
    """Raises `BrokenOff` if the training under way was told to stop.

    Raises:
        BrokenOff: a signal has told the training under way to stop.
    """
    if any(interruption.exit_code is not None for interruption in _listening):
        raise BrokenOff
