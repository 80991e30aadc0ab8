"""Clocks and a memory meter for the measured processes; they import nothing that would count as a library's memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def time_calls(
    call: Callable[[], Any], times: int, warm_up: int, block: int = 1, wait: Callable[[Any], Any] = id
) -> dict[str, float]:
    """Returns the seconds of the first call, and the median of `times` calls after `warm_up` ones.

    Args:
        call: what is measured.
        times: the number of measured calls, or blocks of calls.
        warm_up: calls before them.
        block: the number of calls that are timed together.
        wait: called with the last result of each block, until which a GPU may run behind the calls.
    """
    seconds = []
    for number in range(warm_up + times):
        count = block if number >= warm_up else 1
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        wait(result)
        seconds.append((time.perf_counter() - began) / count)
    return {"first_seconds": seconds[0], "step_seconds": statistics.median(seconds[warm_up:])}


class Stages:
    """A clock for the stages of preparing data, which also counts the tokens of the batches without padding."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.first = 0.0
        self.tokens = 0
        self._began = time.perf_counter()

    def end(self, stage: str) -> None:
        """Ends a stage; the next one begins."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._began
        self._began = now

    def count(self, masks: Iterable[Any]) -> None:
        """Counts the tokens in the padding masks of all batches, and ends the stage "batches"."""
        for mask in masks:
            self.first = self.first or sum(self.seconds.values()) + time.perf_counter() - self._began
            self.tokens += int(mask.sum())
        self.end("batches")


def peak_memory() -> int:
    """Returns the peak resident memory of this process, in bytes.

    The counter of `getrusage` starts at the parent's value, so that of Linux' /proc is preferred.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
