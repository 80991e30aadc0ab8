"""Turns SIGTERM and SIGINT into a request that training checks between two steps, instead of ending within one."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from kerasllm import processes


class BrokenOff(Exception):
    """Raised by `break_off_if_told`."""


class Interruption:
    """A signal handler that remembers the first signal; a second one ends the process at once.

    Attributes:
        asked: None, or the exit code that a signal to this process asks for, 128 plus the number of the signal: 130 for
            SIGINT, 143 for SIGTERM.
        exit_code: the same once it holds: at once, or of several processes when they have agreed on it.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.exit_code: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Installs the handlers; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
            _listening.append(self)

    def restore(self) -> None:
        """Restores the previous handlers."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before = {}
            _listening[:] = [other for other in _listening if other is not self]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # This writes straight to the descriptor, since a signal may come in the middle of a print.
        if self.asked is not None:
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # shows the cursor, which a progress bar hides
            os._exit(128 + number)
        self.asked = 128 + number
        if processes.place()[1] == 1:
            self.exit_code = self.asked
        os.write(2, b"\nstopping after this step (once more to exit at once)\n")


_listening: list[Interruption] = []


class Interruptible:
    """Validation batches that raise `BrokenOff` once the run is told to stop.

    Thus a long validation does not keep the run from saving in time.

    Args:
        batches: the sequence of batches, whose other attributes stay available.
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
    """Raises `BrokenOff` if the current training was told to stop.

    Raises:
        BrokenOff: a signal has told the current training to stop.
    """
    if any(interruption.exit_code is not None for interruption in _listening):
        raise BrokenOff
