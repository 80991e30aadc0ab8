"""The check of a conversation's messages, and their conversion to one form."""

from typing import Any

from kerasllm.errors import InputError, short

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_NOT_LEARNED = {"weight": (0, 1), "train": (False, True), "training": (False, True)}
"""Fields of a message that say whether it is learned, with the values for no and yes: OpenAI's and axolotl's."""
_CALLS = ("function_call", "tool_call", "function-call")
_RESULTS = ("observation", "function", "function_response", "tool_response", "function-response")


def read_messages(messages: Any, before: str) -> tuple[list[Message], list[bool]]:
    """Returns messages with `role` and `content`, and whether each of them is learned.

    The order of the roles is left to the chat template. Content in parts becomes their text; ShareGPT's `from` and
    `value` become `role` and `content`. The assistant's messages are learned, but not those of weight 0.

    Args:
        messages: a list of objects, as it stands in a file.
        before: the words before a message's number in an error: the place of the conversation and "message".

    Raises:
        InputError: the messages are invalid; the error names the place, the message and the fault.
    """
    place = before.rpartition(":")[0]
    if not isinstance(messages, list):
        raise InputError(f"{place}: the messages are {short(messages)}, they must be a list of objects")
    if not messages:
        raise InputError(f"{place}: an empty conversation; give at least a user's and an assistant's message")
    found, learned = [], []
    for number, message in enumerate(messages, 1):
        where = f"{before} {number}"
        message = _with_role(message, where)
        weights = [_weight(name, message.pop(name, None), where) for name in _NOT_LEARNED]
        found.append(message)
        learned.append(message["role"] == "assistant" and all(weights))
    return found, learned


def _with_role(message: Any, where: str) -> Message:
    """Returns a copy of a message with a known role, and with its content as text."""
    if isinstance(message, dict) and {"from", "value"} <= message.keys():
        rest = {name: value for name, value in message.items() if name not in ("from", "value")}
        sender = message["from"]
        role = _SHAREGPT.get(sender, sender) if isinstance(sender, str) else sender
        message = {"role": role, "content": message["value"], **rest}
    if not isinstance(message, dict) or "role" not in message:
        raise InputError(f"{where}: it must be an object with 'role' and 'content'")
    role, calls = message["role"], message.get("tool_calls")
    if role not in ROLES:
        mend = ""
        if role in _CALLS:
            mend = "; write a call as 'tool_calls' of an assistant's message"
        elif role in _RESULTS:
            mend = "; give the result of a call the role 'tool'"
        raise InputError(f"{where}: role {short(role)} is not one of {', '.join(ROLES)}{mend}")
    if message.get("function_call") is not None:
        raise InputError(
            f"{where}: 'function_call' is the old form of a call; write it as 'tool_calls', a list"
        )
    if calls is not None and not (
        role == "assistant" and isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    ):
        raise InputError(
            f"{where}: 'tool_calls' is {short(calls)}, it must be an assistant's list of objects"
        )
    message = {name: value for name, value in message.items() if value is not None}
    if "content" not in message:
        if not calls:
            raise InputError(f"{where}: it must be an object with 'role' and 'content', which is text")
        return message
    return message | {"content": text_of(message["content"], f"{where}: content")}


def text_of(content: Any, where: str) -> str:
    """Returns the text of a message's content, a text or a list of parts of the form `{"type": "text", "text"}`.

    Args:
        content: the content as it stands in a file.
        where: the place and the field, for messages.

    Raises:
        InputError: the content is neither, or a part is no text, such as an image.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InputError(f"{where} is {short(content)}, it must be text")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else part
            if kind == "text":
                raise InputError(f"{where}: a part's text is {short(text)}, it must be text")
            raise InputError(
                f"{where}: a part is of type {short(kind)}; only text can be learned, leave it out"
            )
        texts.append(text)
    return "".join(texts)


def _weight(name: str, value: Any, where: str) -> bool:
    """Returns whether a weight lets a message be learned."""
    if value is None:
        return True
    if isinstance(value, bool | int | float) and value in _NOT_LEARNED[name]:
        return bool(value)
    raise InputError(
        f"{where}: {name!r} is {short(value)}, it must be {' or '.join(map(str, _NOT_LEARNED[name]))}"
    )
