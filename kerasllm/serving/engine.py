"""The thread that continues texts: it fills free slots from a queue, and hands out tokens as they come."""

from __future__ import annotations

import collections
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kerasllm.generation.slots import SlotRequest, Slots


class Token(NamedTuple):
    """A new token of a text.

    Args:
        id: the token.
        log_probability: its log probability, in nats.
        alternatives: the most likely tokens with theirs, as many as were asked for.
    """

    id: int
    log_probability: float
    alternatives: list[tuple[int, float]]


class End(NamedTuple):
    """The end of a text.

    Args:
        reason: "stop" at a stop token, "length" where the room is used up, or "error".
    """

    reason: str


@dataclass(eq=False)
class Ticket:
    """A text that waits or runs.

    Args:
        request: the prompt and its settings.
        room: the most new tokens.
        stops: the tokens at which the text ends; the last token is then not handed out.
        deliver: what is called with each `Token` and the `End`, in the engine's thread.
    """

    request: SlotRequest
    room: int
    stops: frozenset[int]
    deliver: Callable[[Token | End], None]
    is_cancelled: bool = False
    produced: int = field(default=0, init=False)


class QueueFull(Exception):
    """Raised where more texts wait than may."""


class Engine:
    """A model that continues texts, as many at a time as it has slots.

    Args:
        model: the model; its weights must not change.
        slots: texts that are continued at the same time.
        queue_length: texts that may wait beside them.
    """

    def __init__(self, model: Any, *, slots: int, queue_length: int) -> None:
        self._model, self._number, self._queue_length = model, slots, queue_length
        self._slots = Slots(model, slots)
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._running: dict[int, Ticket] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, *, is_compiled: bool = True) -> int:
        """Starts the thread, after compiling the model's programs if asked to, and returns their number."""
        compiled = self._slots.compile() if is_compiled else 0
        self._thread.start()
        return compiled

    @property
    def load(self) -> tuple[int, int]:
        """The numbers of texts that run and that wait."""
        return len(self._running), len(self._waiting)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Puts texts into the queue, all or none.

        Raises:
            QueueFull: more would wait than may.
        """
        with self._changed:
            free = self._number - len(self._running)
            if len(self._waiting) + len(tickets) > free + self._queue_length:
                raise QueueFull
            self._waiting.extend(tickets)
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Takes a text out of the queue, or frees its slot before the next step; nothing is delivered any more."""
        ticket.is_cancelled = True

    def close(self) -> None:
        """Ends the thread after the texts that run and wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._is_closed):
                    self._changed.wait()
                if not (self._waiting or self._running):
                    return
            try:
                self._round()
            except Exception:
                traceback.print_exc(file=sys.stderr)
                self._fail()

    def _round(self) -> None:
        """Frees and fills slots, and hands out the next token of each text."""
        for slot, ticket in list(self._running.items()):
            if ticket.is_cancelled:
                self._free(slot)
        for slot in range(self._number):
            waiting = None if slot in self._running else self._next()
            if waiting is not None:
                self._running[slot] = waiting
                self._slots.put(slot, waiting.request)
        if not self._running:
            return
        chosen = self._slots.choose()
        for slot, ticket in list(self._running.items()):
            token = int(chosen.tokens[slot])
            ticket.produced += 1
            if token in ticket.stops:
                self._end(slot, ticket, "stop")
                continue
            alternatives: list[tuple[int, float]] = []
            if chosen.alternatives is not None:
                own = (part[slot, : ticket.request.alternatives].tolist() for part in chosen.alternatives)
                alternatives = list(zip(*own, strict=True))
            _deliver(ticket, Token(token, float(chosen.log_probabilities[slot]), alternatives))
            if ticket.produced == ticket.room:
                self._end(slot, ticket, "length")
        if self._running:
            self._slots.advance()

    def _next(self) -> Ticket | None:
        """Returns the next text that waits, or None."""
        with self._changed:
            while self._waiting:
                ticket = self._waiting.popleft()
                if not ticket.is_cancelled:
                    return ticket
        return None

    def _end(self, slot: int, ticket: Ticket, reason: str) -> None:
        self._free(slot)
        _deliver(ticket, End(reason))

    def _free(self, slot: int) -> None:
        del self._running[slot]
        self._slots.free(slot)

    def _fail(self) -> None:
        """Ends all texts that run, and begins with empty slots."""
        for slot, ticket in list(self._running.items()):
            del self._running[slot]
            _deliver(ticket, End("error"))
        self._slots = Slots(self._model, self._number)


def _deliver(ticket: Ticket, event: Token | End) -> None:
    if not ticket.is_cancelled:
        ticket.deliver(event)
