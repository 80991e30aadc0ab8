"""Making of batches ahead of time, in a thread that ends when it has caught up.

A thread that waited for work would have to be told when `fit` ends, which does not happen if `fit` is interrupted.
Starting a thread takes up to a millisecond, so it is started once for several batches, and not at all for batches
that are made faster than that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")

_WORTH_A_THREAD = 1e-4  # seconds; faster items are made when they are requested


class Prefetcher(Generic[Item]):
    """Items by number, of which the next ones are made in the background while one is used.

    As `make` is a pure function, prefetching changes only the waiting time. Items may be requested in any order and
    from several threads. If `make` fails, `get` raises its error, and the next `get` tries again.

    Args:
        make: a function that returns the item of a number; two threads may call it at a time.
        depth: number of items to make ahead; 0 for none.
        stop: items from this number on are not made ahead.
    """

    def __init__(self, make: Callable[[int], Item], *, depth: int, stop: int) -> None:
        self._make, self._depth, self._stop = make, depth, stop
        self._lock = threading.Lock()
        self._known: dict[int, Future[Item]] = {}
        self._waiting: deque[int] = deque()
        self._working = False
        self._seconds = _WORTH_A_THREAD  # the time that the last item took

    def get(self, number: int) -> Item:
        """Returns item `number`, and starts making the next `depth` items."""
        with self._lock:
            future = self._known.get(number)
            mine = future is None
            if future is None:
                future = Future()
            depth = self._depth if self._seconds >= _WORTH_A_THREAD else 0
            # The previous item is kept too, as a TensorFlow pipeline reads the first two items and then starts again.
            self._known = {
                key: value for key, value in self._known.items() if -1 <= key - number <= self._depth
            }
            self._known[number] = future
            self._waiting = deque(key for key in self._waiting if key in self._known)
            ahead = range(number + 1, min(number + 1 + depth, self._stop))
            missing = [key for key in ahead if key not in self._known]
            if len(missing) > depth // 2 or number + 1 in missing:
                self._known |= {key: Future() for key in missing}
                self._waiting += missing
            if self._waiting and not self._working:
                self._working = True
                threading.Thread(target=self._work, name="kerasllm-prefetch", daemon=True).start()
        if mine:
            self._fill(number, future)
        return future.result()

    def _fill(self, number: int, future: Future[Item]) -> None:
        try:
            began = time.perf_counter()
            item = self._make(number)
            self._seconds = time.perf_counter() - began
            future.set_result(item)
        except BaseException as error:  # also for an interruption, as other threads may wait for this item
            with self._lock:
                if self._known.get(number) is future:
                    del self._known[number]
            future.set_exception(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    return
                number = self._waiting.popleft()
                future = self._known[number]
            self._fill(number, future)
