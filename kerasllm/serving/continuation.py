"""A text as it is continued for a client: its tokens, what of its text is settled, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kerasllm.generation.slots import SlotRequest
from kerasllm.generation.texts import AddedText, cut_at, settled
from kerasllm.serving.engine import End, Engine, QueueFull, Ticket, Token
from kerasllm.serving.errors import ServingError, overloaded


@dataclass
class Continuation:
    """One text that is continued.

    Args:
        index: its number among the answers to a request.
        request: its prompt and settings.
        tokenizer: the model's tokenizer.
        room: the most new tokens.

    Attributes:
        tokens: the new tokens so far.
        reason: why it ended, "stop" or "length"; None while it goes on.
    """

    index: int
    request: SlotRequest
    tokenizer: Any
    room: int
    tokens: list[Token] = field(default_factory=list, init=False)
    reason: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._text = AddedText(self.tokenizer, self.request.prompt)
        self._handed_out = 0
        self._tokens_handed_out = 0
        self._final: str | None = None

    @property
    def text(self) -> str:
        """The text so far, whole once it has ended."""
        return self._text.text if self._final is None else self._final

    def add(self, event: Token | End) -> None:
        """Takes in a token or the end; a stop text ends it too.

        Raises:
            ServingError: the model failed.
        """
        if isinstance(event, End):
            if event.reason == "error":
                raise ServingError(500, "the model failed; the server's log says how")
            self._final, self.reason = self._text.end(), event.reason
        else:
            self.tokens.append(event)
            self._text.add(event.id)
        cut = cut_at(self.text, self.request.settings.stop)
        if cut is not None:
            self._final, self.reason = cut, "stop"

    def news(self) -> tuple[str, list[Token]]:
        """Returns the text and the tokens since the last call, without text that may yet become a stop text."""
        ready = self.text if self._final is not None else settled(self.text, self.request.settings.stop)
        if len(ready) <= self._handed_out and self.reason is None:
            return "", []
        added, tokens = ready[self._handed_out :], self.tokens[self._tokens_handed_out :]
        self._handed_out, self._tokens_handed_out = len(ready), len(self.tokens)
        return added, tokens


async def run(
    engine: Engine,
    continuations: Sequence[Continuation],
    stops: Sequence[int],
    seconds: float,
    first_token: Callable[[float], None],
) -> AsyncGenerator[Continuation, None]:
    """Continues texts, and yields each whenever it has a new token or has ended.

    If the caller leaves the iteration, the slots of its texts are freed before the engine's next step.

    Args:
        engine: the engine of the model.
        continuations: the texts.
        stops: the tokens that end a text.
        seconds: the most time.
        first_token: what is called with the seconds that the first token took.

    Raises:
        ServingError: the queue is full, the time is over, or the model failed.
    """
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[Continuation, Token | End]] = asyncio.Queue()

    def deliverer(each: Continuation) -> Callable[[Token | End], None]:
        def deliver(event: Token | End) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, (each, event))

        return deliver

    tickets = [Ticket(each.request, each.room, frozenset(stops), deliverer(each)) for each in continuations]
    by_index = {each.index: ticket for each, ticket in zip(continuations, tickets, strict=True)}
    try:
        engine.submit(tickets)
    except QueueFull as error:
        raise overloaded("too many texts wait to be continued: try again later") from error
    try:
        open_ends, is_first = len(continuations), True
        while open_ends:
            try:
                each, event = await asyncio.wait_for(events.get(), began + seconds - time.monotonic())
            except TimeoutError as error:
                raise overloaded(f"the answer took longer than {seconds:g} seconds") from error
            if each.reason is not None:  # a token behind a stop text
                continue
            if is_first:
                first_token(time.monotonic() - began)
                is_first = False
            each.add(event)
            if each.reason is not None:
                open_ends -= 1
                engine.cancel(by_index[each.index])
            yield each
    finally:
        for ticket in tickets:
            engine.cancel(ticket)
