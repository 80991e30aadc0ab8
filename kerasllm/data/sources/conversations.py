"""Reading of conversations from JSON lines, with a check of each record."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kerasllm.errors import InputError

ROLES = ("system", "user", "assistant")
Message = dict[str, str]


class Conversation(NamedTuple):
    """A conversation with at least one message of the assistant.

    Args:
        messages: the messages, each with `role` and `content`.
        place: file and line, for messages to the user.
    """

    messages: list[Message]
    place: str


class Completion(NamedTuple):
    """A prompt and its completion, neither of which is empty.

    Args:
        prompt: the text before the completion.
        completion: the text that is learned.
        place: file and line, for messages to the user.
    """

    prompt: str
    completion: str
    place: str


def read_conversations(path: Path) -> Iterator[Conversation | Completion]:
    """Yields the records of a JSONL file, `{"messages": [{"role", "content"}, …]}` or `{"prompt", "completion"}`.

    Raises:
        InputError: a line is no JSON, a field is missing or no text, there are no messages, a role is unknown or out
            of order, there is no assistant's turn, or the file is empty. The message names file and line.
    """
    is_empty = True
    for place, record in _records(path):
        is_empty = False
        yield read_record(record, place)
    if is_empty:
        raise InputError(f"{path}: holds no conversation")


def read_record(record: Mapping[str, Any], place: str) -> Conversation | Completion:
    """Returns a record of any form that is taken.

    Args:
        record: the record.
        place: the place of the record, for messages.

    Raises:
        InputError: as for `read_conversations`.
    """
    if "messages" in record:
        return Conversation(check_messages(record["messages"], place), place)
    if "prompt" not in record or "completion" not in record:
        raise InputError(
            f"{place}: the fields are {sorted(record)}; give 'messages', or 'prompt' and 'completion'"
        )
    for name in ("prompt", "completion"):
        if not isinstance(record[name], str) or not record[name]:
            raise InputError(f"{place}: {name!r} is {record[name]!r}, it must be text")
    return Completion(record["prompt"], record["completion"], place)


def is_conversation_file(path: str) -> bool:
    """Returns whether a JSONL file's first record is a conversation rather than a text."""
    if not path.lower().endswith((".jsonl", ".ndjson")) or not Path(path).is_file():
        return False
    for _, record in _records(Path(path)):
        return "messages" in record or "prompt" in record
    return False


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the place and the JSON object of each line that is not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8; convert the file with iconv -t UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not JSON: {error}; each line must be one JSON object") from error
        if not isinstance(record, dict):
            raise InputError(f"{place}: {type(record).__name__} where a JSON object belongs")
        yield place, record


def check_messages(messages: Any, place: str) -> list[Message]:
    """Returns messages after a check: an optional system message, then user and assistant must alternate.

    Args:
        messages: the value of "messages" in the file.
        place: the place of the conversation, for messages.

    Raises:
        InputError: the messages are invalid; the error names the place, the message and the fault.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place}: an empty conversation; give at least a user's and an assistant's message")
    due = "user"
    for number, message in enumerate(messages, 1):
        where = f"{place}: message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise InputError(f"{where}: it must be an object with 'role' and 'content'")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise InputError(f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise InputError(f"{where}: content is {content!r}, it must be text")
        if role == "system" and number == 1:
            continue
        if role != due:
            raise InputError(f"{where}: role {role!r} is out of order, {due!r} is due; they alternate")
        due = "assistant" if role == "user" else "user"
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: no assistant's turn, so there is nothing to learn from")
    return messages
