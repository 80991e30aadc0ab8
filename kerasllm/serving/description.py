"""The description of the server's paths in OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerasllm import __version__
from kerasllm.serving.fields import Field

_ERRORS = {
    "400": "The request is wrong; the error says how.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "422": "The model cannot take the text.",
    "429": "This client has too many requests open.",
    "503": "Too much is asked at the moment; Retry-After says when to try again.",
}


def describe(endpoints: Mapping[str, tuple[Any, Mapping[str, Field]]]) -> dict[str, Any]:
    """Returns the description of all paths.

    Args:
        endpoints: by path, a handler, whose docstring is the summary, and the fields of its requests.
    """
    paths: dict[str, Any] = {
        path: {"post": _operation(handler, fields)} for path, (handler, fields) in endpoints.items()
    }
    for path, summary in {
        "/v1/models": "The models, each with its task and path.",
        "/health": "Whether the server is up.",
        "/metrics": "Figures in Prometheus' format.",
    }.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "kerasllm", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
    }


def _operation(handler: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
    properties = {
        name: {**field.schema, "description": field.documentation} for name, field in fields.items()
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name, field in fields.items() if field.is_required],
        "additionalProperties": False,
    }
    responses = {"200": {"description": "The answer."}}
    responses |= {status: {"description": text} for status, text in _ERRORS.items()}
    return {
        "summary": (handler.__doc__ or "").strip(),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": responses,
    }
