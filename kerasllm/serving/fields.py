"""The fields of requests: each is declared once, checked by its declaration, and described to clients by it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kerasllm.errors import short
from kerasllm.serving.errors import ServingError

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_MOST_TEXTS = 256


class _Wrong(ValueError):
    """Raised by readers of values; the message says what a value must be."""


@dataclass(frozen=True)
class Field:
    """A field of a request.

    Args:
        read: from a JSON value to what the server works with; raises `_Wrong`.
        schema: the value in JSON Schema.
        documentation: one sentence for clients.
        default: the value if the field is missing or null.
        is_required: whether the field must be given.
    """

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    documentation: str
    default: Any = None
    is_required: bool = False


def text(documentation: str, *, default: str | None = None, is_required: bool = False) -> Field:
    """Returns a field with one text."""
    return Field(_text, {"type": "string"}, documentation, default, is_required)


def whole(documentation: str, low: int, high: int | None = None, default: int | None = None) -> Field:
    """Returns a field with a whole number from `low` to `high`, or of any size where the handler has the limit."""
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _Wrong(wanted)
        if value < low or (high is not None and value > high):
            raise _Wrong(wanted)
        return value

    most = {} if high is None else {"maximum": high}
    return Field(
        read, {"type": "integer", "minimum": low, **most, "default": default}, documentation, default
    )


def number(
    documentation: str, low: float, high: float, default: float | None = None, *, above: bool = False
) -> Field:
    """Returns a field with a number from `low` to `high`, or above `low`."""

    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (above and value == low):
            ends = ("above", "and at most") if above else ("from", "to")
            raise _Wrong(f"a number {ends[0]} {low:g} {ends[1]} {high:g}")
        return float(value)

    least = "exclusiveMinimum" if above else "minimum"
    return Field(
        read, {"type": "number", least: low, "maximum": high, "default": default}, documentation, default
    )


def flag(documentation: str, default: bool = False) -> Field:
    """Returns a field with true or false."""

    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise _Wrong("true or false")
        return value

    return Field(read, {"type": "boolean", "default": default}, documentation, default)


def choice(documentation: str, *values: str, default: str | None = None) -> Field:
    """Returns a field with one of a few texts."""

    def read(value: Any) -> str:
        if value not in values:
            raise _Wrong("one of " + ", ".join(map(repr, values)))
        return value

    return Field(read, {"type": "string", "enum": list(values), "default": default}, documentation, default)


def ignored(documentation: str) -> Field:
    """Returns a field that other servers know and this one has no use for."""
    return Field(lambda value: None, {}, documentation)


def only(value: Any, documentation: str) -> Field:
    """Returns a field that other servers know, of which this one takes a single value."""

    def read(given: Any) -> None:
        if given != value:
            raise _Wrong(f"{json.dumps(value)}, or left out, as nothing else is possible here")

    return Field(read, {"const": value}, documentation)


def texts(documentation: str, *, are_pairs_allowed: bool = False) -> Field:
    """Returns a required field with a text or a list of texts, which is read as a list of tuples of texts."""
    wanted = "a text or a list of texts" + (", or of lists of two texts" if are_pairs_allowed else "")

    def read_one(value: Any) -> tuple[str, ...]:
        if are_pairs_allowed and isinstance(value, list) and len(value) == 2:
            return _text(value[0]), _text(value[1])
        if not isinstance(value, str):
            raise _Wrong(wanted)
        return (_text(value),)

    def read(value: Any) -> list[tuple[str, ...]]:
        values = value if isinstance(value, list) else [value]
        if not 0 < len(values) <= _MOST_TEXTS:
            raise _Wrong(f"1 to {_MOST_TEXTS} texts")
        found = [read_one(each) for each in values]
        if not all(part.strip() for each in found for part in each):
            raise _Wrong("texts that are not empty")
        return found

    return Field(read, _one_or_more({"type": "string"}), documentation, is_required=True)


def stop_texts(documentation: str) -> Field:
    """Returns a field with a text or up to 16 of them, none empty."""

    def read(value: Any) -> list[str]:
        values = value if isinstance(value, list) else [value]
        if len(values) > 16 or not all(isinstance(each, str) and each for each in values):
            raise _Wrong("a text or up to 16 texts, none of them empty")
        return list(map(_text, values))

    return Field(read, _one_or_more({"type": "string"}), documentation, ())


def prompts(documentation: str) -> Field:
    """Returns a field with one or several prompts, each a text or a list of token ids; it is read as a list of them."""

    def is_ids(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) > 0
            and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
        )

    def read(value: Any) -> list[Any]:
        values = [value] if isinstance(value, str) or is_ids(value) else value
        if not isinstance(values, list) or not 0 < len(values) <= _MOST_TEXTS:
            raise _Wrong(f"1 to {_MOST_TEXTS} prompts")
        if not all(isinstance(each, str) or is_ids(each) for each in values):
            raise _Wrong("a text, a list of token ids, or a list of these")
        return [_text(each) if isinstance(each, str) else each for each in values]

    return Field(read, _one_or_more({"type": "string"}), documentation, [""])


def messages(documentation: str) -> Field:
    """Returns a required field with the messages of a conversation; parts of a content are joined."""

    def content_of(message: Mapping[str, Any]) -> str:
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
                raise _Wrong('messages whose parts are all {"type": "text", "text": …}')
            return "".join(_text(part.get("text")) for part in content)
        return _text(content)

    def read(value: Any) -> list[dict[str, str]]:
        if not isinstance(value, list) or not 0 < len(value) <= _MOST_TEXTS:
            raise _Wrong(f"1 to {_MOST_TEXTS} messages")
        found = []
        for message in value:
            if not isinstance(message, dict) or message.get("role") not in _ROLES:
                raise _Wrong(f"messages with a role, one of {', '.join(_ROLES)}, and a content")
            found.append({"role": message["role"], "content": content_of(message)})
        return found

    schema = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string", "enum": list(_ROLES)}, "content": {"type": "string"}},
    }
    return Field(read, {"type": "array", "items": schema, "minItems": 1}, documentation, is_required=True)


_ROLES = ("system", "developer", "user", "assistant")


def parse(raw: bytes) -> dict[str, Any]:
    """Returns the JSON object that the body of a request is.

    Raises:
        ServingError: the body is none.
    """
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ServingError(400, f"the body is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise ServingError(400, f"the body is no JSON: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ServingError(400, f"the body is {short(found)}: send a JSON object")
    return found


def read(fields: Mapping[str, Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of all fields, the defaults for those that are missing.

    Raises:
        ServingError: a field is unknown, missing, or has a wrong value.
    """
    for name in given:
        if name not in fields:
            missing = [each for each, field in fields.items() if field.is_required and each not in given]
            nearest = difflib.get_close_matches(name, fields, n=1) or missing
            mend = f": did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(fields)}"
            raise ServingError(400, f"there is no field {short(name)}{mend}", parameter=name[:60])
    values = {}
    for name, field in fields.items():
        value = given.get(name)
        if value is None:
            if field.is_required:
                raise ServingError(400, f"{name} is missing: {field.documentation}", parameter=name)
            values[name] = field.default
            continue
        try:
            values[name] = field.read(value)
        except _Wrong as error:
            raise ServingError(
                400, f"{name} is {short(value)}, it must be {error}", parameter=name
            ) from error
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("a text")
    if _HALF_PAIR.search(value):
        raise _Wrong("a text without halves of surrogate pairs, which are no characters")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _one_or_more(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"oneOf": [dict(schema), {"type": "array", "items": dict(schema), "minItems": 1}]}
