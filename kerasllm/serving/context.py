"""What all requests share: the models, the limits and the figures of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from kerasllm.serving.errors import ServingError
from kerasllm.serving.fields import parse
from kerasllm.serving.metrics import Metrics
from kerasllm.serving.served import PATHS, ServedModel

Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Args:
        max_tokens: new tokens of a text.
        max_kilobytes: the size of a request's body.
        seconds: the time for an answer.
        client_requests: requests of one client at the same time; None for any number.
    """

    max_tokens: int = 1024
    max_kilobytes: int = 256
    seconds: float = 300.0
    client_requests: int | None = None


@dataclass
class Context:
    """The state of a server.

    Args:
        models: the models by name.
        limits: the limits.
        api_key: the key that clients must give, or None.
        hosts: the names under which the server may be asked, beside addresses; None for any.
        metrics: the figures.
    """

    models: Mapping[str, ServedModel]
    limits: Limits = field(default_factory=Limits)
    api_key: str | None = None
    hosts: Collection[str] | None = None
    metrics: Metrics = field(default_factory=Metrics)

    async def body(self, request: Request) -> dict[str, Any]:
        """Returns the JSON object in the body of a request.

        Raises:
            ServingError: it is none, too large, or of another media type.
        """
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            # This also keeps pages of other sites from posting to a server on the same machine.
            raise ServingError(400, "send the body as application/json, and say so in Content-Type")
        most = self.limits.max_kilobytes * 1024
        received = bytearray()
        try:
            async for part in request.stream():
                received += part
                if len(received) > most:
                    raise ServingError(413, f"the body is above {self.limits.max_kilobytes} kilobytes")
        except ClientDisconnect as error:
            raise ClientLeft from error
        return parse(bytes(received))

    def model(self, name: str | None, *tasks: str) -> ServedModel:
        """Returns the model of a name, or the first for one of the tasks.

        Raises:
            ServingError: there is none, or it is for another task.
        """
        if name is None:
            found = next((model for model in self.models.values() if model.task in tasks), None)
            if found is None:
                raise ServingError(404, f"this server has no model for {tasks[0]}", code="model_not_found")
            return found
        if name not in self.models:
            known = ", ".join(self.models)
            raise ServingError(
                404,
                f"there is no model {name[:60]!r}, only {known}",
                parameter="model",
                code="model_not_found",
            )
        model = self.models[name]
        if model.task not in tasks:
            raise ServingError(
                400, f"{name} is a model for {model.task}: ask it at {PATHS[model.task]}", parameter="model"
            )
        return model


class ClientLeft(Exception):
    """Raised where a client has closed its connection; nobody reads the answer."""


async def until_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Returns the result of some work, which is cancelled if the client leaves before it is done.

    Args:
        request: the request, whose body has been read.
        work: the work.

    Raises:
        ClientLeft: the client has left.
    """

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
