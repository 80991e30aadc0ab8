"""Tells the process that has started a run, such as a search, of each validation, and does what it says.

That process holds the other end of a socket, whose descriptor the environment names. After each validation one line of
JSON is sent, `{"number": 3, "step": 120, "figures": {"loss": 0.6}}`, and the run waits for the answer: `go on` or
`stop`. What becomes of a run thus depends on its figures alone, not on how quickly somebody looks at them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from kerasllm.files.json import to_json

SOCKET = "KERASLLM_VALIDATION_SOCKET"
"""The environment variable with the descriptor of the socket and the id of the process at the other end, "7 1234"."""

GO_ON, STOP = b"go on\n", b"stop\n"


def listener(interval: int | None) -> Callable[[int, Mapping[str, float]], None] | None:
    """Returns a function of step and figures, to be called after each validation; None if nobody listens.

    If the answer is to stop, this process gets SIGTERM, so that the run saves its state and stops as usual. If there
    is no answer, as the other process has ended, the run goes on.

    Args:
        interval: steps between validations; None for one at the end only.
    """
    name, _, parent = os.environ.get(SOCKET, "").partition(" ")
    if not name or parent != str(os.getppid()):  # a process of a run inherits the name alone
        return None
    descriptor = int(name)

    def tell(step: int, figures: Mapping[str, float]) -> None:
        number = 1 if interval is None else -(-step // interval)
        told = to_json({"number": number, "step": step, "figures": dict(figures)})
        try:
            os.write(descriptor, told.encode() + b"\n")
            answer = os.read(descriptor, len(GO_ON))
        except OSError:
            return
        if answer == STOP:
            signal.raise_signal(signal.SIGTERM)

    return tell
