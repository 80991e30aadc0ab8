"""Dynamic batching: texts that arrive while a batch runs make the next one."""

from __future__ import annotations

import collections
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from kerasllm.errors import InputError
from kerasllm.serving.engine import QueueFull

Work = Callable[[Sequence[Any], Any], Sequence[Any]]
"""From items and the settings that they share to a result for each."""


@dataclass(frozen=True)
class _Job:
    items: Sequence[Any]
    settings: Hashable
    future: Future[list[Any]]


class Batcher:
    """A thread that works on the items of several requests at once.

    Nothing is waited for: a request that finds the thread free runs at once. Requests with the same settings that
    arrive meanwhile run together. If together they cannot be worked on, each is tried alone, so that a wrong one harms
    no other.

    Args:
        work: what is done with a batch.
        batch_size: items from which a batch takes no further request.
        queue_length: requests that may wait.
    """

    def __init__(self, work: Work, *, batch_size: int, queue_length: int) -> None:
        self._work, self._batch_size, self._queue_length = work, batch_size, queue_length
        self._waiting: collections.deque[_Job] = collections.deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    def submit(self, items: Sequence[Any], settings: Hashable) -> Future[list[Any]]:
        """Returns the future results of items, one for each; a future that is cancelled before its turn costs nothing.

        Raises:
            QueueFull: too many requests wait.
        """
        future: Future[list[Any]] = Future()
        with self._changed:
            if len(self._waiting) >= self._queue_length:
                raise QueueFull
            self._waiting.append(_Job(items, settings, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Ends the thread after what waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                jobs = self._take()
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs:
                self._answer(jobs)

    def _take(self) -> list[_Job]:
        """Returns the next request, and others with the same settings up to the size of a batch."""
        jobs = [self._waiting.popleft()]
        count = len(jobs[0].items)
        for job in list(self._waiting):
            if job.settings == jobs[0].settings and count + len(job.items) <= self._batch_size:
                self._waiting.remove(job)
                jobs.append(job)
                count += len(job.items)
        return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            found = list(self._work([item for job in jobs for item in job.items], jobs[0].settings))
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
                return
            if not isinstance(error, InputError):
                traceback.print_exc(file=sys.stderr)
            jobs[0].future.set_exception(error)
            return
        start = 0
        for job in jobs:
            job.future.set_result(found[start : start + len(job.items)])
            start += len(job.items)
