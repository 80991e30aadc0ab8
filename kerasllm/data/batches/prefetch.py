"""Batches made ahead of time by a thread that ends when it has caught up.

A thread that waited for work would have to be told when `fit` is over, and an interrupted `fit` tells nobody. As
whoever starts a thread waits until it runs, which takes up to a millisecond, it is started once for several batches,
and not at all for such as are made sooner.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")

_WORTH_A_THREAD = 1e-4  # seconds; what takes less is made where it is asked for


class Prefetcher(Generic[Item]):
    """Items by number, the next ones made in the background while one is used.

    What was made ahead changes the waiting only, as `make` is a pure function. Items may be asked for in any
    order and from several threads. If `make` fails, `get` raises what it raised, and the next `get` tries
    again.

    Args:
        make: number → item; may be called by two threads at a time.
        depth: how many items to make ahead, 0 for none.
        stop: no item of this number or above is made ahead.
    """

    def __init__(self, make: Callable[[int], Item], *, depth: int, stop: int) -> None:
        self._make, self._depth, self._stop = make, depth, stop
        self._lock = threading.Lock()
        self._known: dict[int, Future[Item]] = {}
        self._waiting: deque[int] = deque()
        self._working = False
        self._seconds = _WORTH_A_THREAD  # that the last item took

    def get(self, number: int) -> Item:
        """Returns item `number`, and starts on the `depth` ones after it."""
        with self._lock:
            future = self._known.get(number)
            mine = future is None
            if future is None:
                future = Future()
            depth = self._depth if self._seconds >= _WORTH_A_THREAD else 0
            # The item before stays too: a TensorFlow pipeline looks at the first two, then begins again.
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
        except BaseException as error:  # an interruption too: whoever waits for this item must hear of it
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
