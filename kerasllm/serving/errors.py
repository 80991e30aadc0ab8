"""Answers to requests that cannot be served, in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    422: "unprocessable_text",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}


class ServingError(Exception):
    """Raised where a request cannot be served.

    Args:
        status: the HTTP status.
        message: what is wrong and how to mend it, in one sentence.
        parameter: the field of the request that is wrong, or None.
        code: a short name for programs, or None.
        retry_after: seconds after which the client may try again, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Returns the error in OpenAI's form."""
        error = {
            "message": _encodable(self.message),
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": None if self.parameter is None else _encodable(self.parameter),
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        """Returns the error as a response."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers=headers)


def overloaded(message: str) -> ServingError:
    """Returns the error for a server that has too much to do at the moment."""
    return ServingError(503, message, code="overloaded", retry_after=1)


def _encodable(text: str) -> str:
    """Returns a text that may quote a request, which may hold halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode("utf-8")
