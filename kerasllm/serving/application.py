"""The web application: its paths, the checks that each request passes, and how errors are answered."""

from __future__ import annotations

import base64
import collections
import hashlib
import hmac
import ipaddress
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from kerasllm.errors import InputError
from kerasllm.serving import completions, predictions
from kerasllm.serving.context import ClientLeft, Context
from kerasllm.serving.description import describe
from kerasllm.serving.errors import ServingError
from kerasllm.serving.fields import Field
from kerasllm.serving.served import ServedModel

Handler = Callable[[Context, Request], Awaitable[Response]]

ENDPOINTS: Mapping[str, tuple[Handler, Mapping[str, Field]]] = {
    "/v1/completions": (completions.complete, completions.COMPLETION),
    "/v1/chat/completions": (completions.chat, completions.CHAT),
    "/v1/embeddings": (predictions.embed, predictions.EMBEDDINGS),
    "/classify": (predictions.classify, predictions.CLASSIFY),
    "/fill-mask": (predictions.fill_mask, predictions.FILL_MASK),
    "/tag": (predictions.tag, predictions.TAG),
    "/answer": (predictions.answer, predictions.ANSWER),
    "/translate": (predictions.translate, predictions.TRANSLATE),
}
"""The paths to which requests are posted, with their handlers and fields."""

_OPEN = ("/", "/health")  # need no key

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def application(context: Context) -> Starlette:
    """Returns the application that serves the models of a context."""
    busy: collections.Counter[str] = collections.Counter()

    def route(path: str, handler: Handler, method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            began = time.monotonic()
            context.metrics.opened()
            response = await _answer(context, request, handler, path, busy)
            response.headers.update(_HEADERS)
            context.metrics.closed(path, response.status_code, time.monotonic() - began)
            return response

        return Route(path, endpoint, methods=[method])

    page, page_headers = _page()
    specification = describe(ENDPOINTS)

    async def show_page(context: Context, request: Request) -> Response:
        return HTMLResponse(page, headers=page_headers)

    async def health(context: Context, request: Request) -> Response:
        return JSONResponse({"status": "ok", "models": list(context.models)})

    async def metrics(context: Context, request: Request) -> Response:
        return Response(context.metrics.text(), media_type="text/plain; version=0.0.4")

    def described(model: ServedModel) -> dict[str, Any]:
        return model.describe() | {"max_tokens": context.limits.max_tokens}

    async def models(context: Context, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": list(map(described, context.models.values()))})

    async def model(context: Context, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in context.models:
            raise ServingError(404, f"there is no model {name[:60]!r}", code="model_not_found")
        return JSONResponse(described(context.models[name]))

    async def openapi(context: Context, request: Request) -> Response:
        return JSONResponse(specification)

    routes = [route(path, handler, "POST") for path, (handler, _) in ENDPOINTS.items()]
    for path, handler in {
        "/": show_page,
        "/health": health,
        "/metrics": metrics,
        "/openapi.json": openapi,
        "/v1/models": models,
        "/v1/models/{name:path}": model,
    }.items():
        routes.append(route(path, handler, "GET"))
    for name, served in context.models.items():
        _watch(context, name, served)
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_path})


async def _answer(
    context: Context, request: Request, handler: Handler, path: str, busy: collections.Counter[str]
) -> Response:
    """Returns the response of a handler, or the error in OpenAI's form."""
    client = request.client.host if request.client else ""
    most = context.limits.client_requests
    busy[client] += 1
    try:
        _check_host(context, request)
        if path not in _OPEN:
            _check_key(context, request)
        if most is not None and busy[client] > most and path in ENDPOINTS:
            raise ServingError(
                429, f"you have {most} requests open, as many as one client may: wait for one", retry_after=1
            )
        return await handler(context, request)
    except ServingError as error:
        return error.response()
    except InputError as error:
        return ServingError(422, " ".join(str(error).split())[:500]).response()
    except ClientLeft:
        return Response(status_code=499)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return ServingError(500, "the server failed; its log says how").response()
    finally:
        busy[client] -= 1
        if not busy[client]:
            del busy[client]


def _check_host(context: Context, request: Request) -> None:
    """Checks the name under which the server is asked; see `Context`."""
    found = re.match(r"\[([^\]]*)\]|[^:]*", request.headers.get("host", "").lower())
    name = "" if found is None else found[1] or found[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if context.hosts is not None and name not in context.hosts:
            raise ServingError(400, f"this server has another name than {name[:60]!r}") from None


def _check_key(context: Context, request: Request) -> None:
    if context.api_key is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), context.api_key.encode("utf-8"))
    if kind.lower() != "bearer" or not right:
        raise ServingError(401, "give the server's key as Authorization: Bearer KEY", code="invalid_api_key")


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.scope['path'][:100]}"
    message = f"{asked}: {str(error.detail).lower()}; /openapi.json lists all paths"
    response = ServingError(error.status_code, message).response()
    response.headers.update({**_HEADERS, **(error.headers or {})})
    return response


def _page() -> tuple[str, dict[str, str]]:
    """Returns the page, and headers that let it load nothing but itself and ask nobody but this server."""
    page = files("kerasllm.serving").joinpath("page.html").read_text(encoding="utf-8")

    def allowed(tag: str) -> str:
        contents = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (hashlib.sha256(each.encode("utf-8")).digest() for each in contents)
        return " ".join(f"'sha256-{base64.b64encode(each).decode('ascii')}'" for each in hashes)

    policy = {
        "default-src": "'none'",
        "script-src": allowed("script"),
        "style-src": allowed("style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    text = "; ".join(f"{name} {value}" for name, value in policy.items())
    return page, {"Content-Security-Policy": text, "Cache-Control": "no-cache"}


def _watch(context: Context, name: str, served: Any) -> None:
    """Shows the load of a model among the figures."""
    engine, batcher = served.engine, served.batcher
    if engine is not None:
        context.metrics.watch("running", name, "Texts that are continued.", lambda: engine.load[0])
        context.metrics.watch("waiting", name, "Requests that wait.", lambda: engine.load[1])
    elif batcher is not None:
        context.metrics.watch("waiting", name, "Requests that wait.", lambda: batcher.load)
