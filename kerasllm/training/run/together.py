"""What the processes of a run do together, so that none waits for another that has gone elsewhere.

What they compute is equal in all of them, and so is what follows from it. What one of them alone knows, a file, a clock
or a signal, is shared here before anything follows from it. In a run of one process nothing is sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from kerasllm import processes
from kerasllm.errors import InputError

Result = TypeVar("Result")

_SECONDS_BETWEEN_AGREEMENTS = 0.5


def of_first(function: Callable[[], Result]) -> Result:
    """Returns in every process what `function` returns in the first one, which alone calls it.

    Args:
        function: returns what JSON can hold.

    Raises:
        InputError: `function` has raised one in the first process.
    """
    if processes.place()[1] == 1:
        return function()
    error: InputError | None = None
    answer: dict[str, object] = {}
    if processes.is_first():
        try:
            answer = {"result": function()}
        except InputError as raised:
            error, answer = raised, {"error": str(raised)}
    told = json.loads(_sent_by_first(json.dumps(answer).encode()))
    if error is not None:
        raise error
    if "error" in told:
        raise processes.ToldByFirst(told["error"])
    return told["result"]


def _sent_by_first(text: bytes) -> bytes:
    length = int(_gather(np.array(len(text), np.int64))[0])
    own = np.frombuffer(text.ljust(length)[:length], np.uint8)
    return _gather(own)[0].tobytes()


def _gather(values: np.ndarray) -> np.ndarray:
    from kerasllm import backend  # a run directory alone needs no Keras

    backend.join()
    return backend.gather(values)


def figures_of_first(figures: Mapping[str, float]) -> dict[str, float]:
    """Returns the first process's numbers by the same names, so that the same follows from them everywhere."""
    if processes.place()[1] == 1:
        return dict(figures)
    values = _gather(np.array(list(figures.values()), np.float64))[0]
    return dict(zip(figures, values.tolist(), strict=True))


def check_equal(what: str, text: str) -> None:
    """Checks that all processes have the same text, such as the hash of their data.

    Raises:
        InputError: this process has another than the first.
    """
    if processes.place()[1] == 1:
        return
    own = np.frombuffer(text.encode().ljust(64)[:64], np.uint8)
    others = _gather(own)
    different = [number for number, other in enumerate(others) if not np.array_equal(other, others[0])]
    if different:
        who = ", ".join(map(str, different))
        raise InputError(
            f"{what} of process {who} is another than that of process 0: all must read the same files"
        )


def all_agree(truth: bool) -> bool:
    """Returns whether it is true in all processes."""
    if processes.place()[1] == 1:
        return truth
    return bool(_gather(np.array(truth, np.int8)).all())


def problem_of_any(problem: str) -> str:
    """Returns the text of the first process that has one, at most 200 bytes of it; "" if none has."""
    if processes.place()[1] == 1:
        return problem
    own = np.frombuffer(problem.encode()[:200].ljust(200), np.uint8)
    found = [row.tobytes().decode(errors="replace").strip() for row in _gather(own)]
    return next((f"process {number}: {text}" for number, text in enumerate(found) if text), "")


class Agreement:
    """Lets processes stop and save after the same step, by one exchange of three numbers about twice a second.

    The first process says how many steps there are until the next exchange, from the time that steps take.
    """

    def __init__(self) -> None:
        self._next = 0
        self._last = 0, time.monotonic()

    def __call__(self, step: int, exit_code: int | None, is_due: bool) -> tuple[int | None, bool]:
        """Returns the exit code with which all are to stop after this step, if any, and whether all are to save.

        Args:
            step: the step that has been made.
            exit_code: the one that a signal to this process asks for.
            is_due: whether a checkpoint is due by the clock of this process; only the first one's counts.
        """
        if processes.place()[1] == 1:
            return exit_code, is_due
        if step < self._next:
            return None, False
        before, at = self._last
        now = time.monotonic()
        self._last = step, now
        pause = max(int(_SECONDS_BETWEEN_AGREEMENTS * (step - before) / max(now - at, 1e-9)), 1)
        is_first = processes.is_first()
        own = np.array([exit_code or 0, is_due and is_first, pause if is_first else 0], np.int32)
        code, due, pause = _gather(own).max(axis=0).tolist()
        self._next = step + pause
        return code or None, bool(due)
