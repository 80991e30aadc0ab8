"""Reading of conversations, prompts and completions from JSON, with a check of each record.

These forms of a record are taken; a file may mix them:

- `{"messages": [{"role", "content"}, …]}`, as OpenAI and trl have it, with `tools`, tool calls, parts of text as
  content, and `weight` 0 for an assistant's turn that is not learned;
- `{"prompt", "completion"}`, two texts or, as in trl, two lists of messages;
- `{"conversations": [{"from", "value"}, …]}` (ShareGPT), and `{"instruction", "input", "output"}` (Alpaca), which are
  read as messages. An instruction and its input are one message, with a blank line between them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kerasllm.data.sources.messages import Message, read_messages, text_of
from kerasllm.errors import InputError, short

_TAKEN = (
    "give 'messages', or 'prompt' and 'completion', or ShareGPT's 'conversations', or Alpaca's 'instruction' and "
    "'output'"
)
_QUESTIONS = ("question", "query", "input", "prompt", "instruction", "problem")
_ANSWERS = ("answer", "response", "output", "completion", "solution", "chosen")
_DIALOGUES = ("dialogue", "dialog", "conversation", "turns", "chat", "contents")


class Conversation(NamedTuple):
    """A conversation with at least one message that is learned.

    Args:
        messages: the messages, each with `role` and `content`, or the `tool_calls` of an assistant.
        place: file and line, for messages to the user.
        learned: whether each message is learned; by default the assistant's are.
        variables: further variables of the chat template, such as `tools`.
    """

    messages: list[Message]
    place: str
    learned: tuple[bool, ...] = ()
    variables: Mapping[str, Any] = {}


class Completion(NamedTuple):
    """A prompt and its completion.

    Args:
        prompt: the text before the completion.
        completion: the text that is learned; of an empty one, that it ends at once.
        place: file and line, for messages to the user.
    """

    prompt: str
    completion: str
    place: str


def read_conversations(path: str | Path) -> Iterator[Conversation | Completion]:
    """Yields the records of a JSONL file, or of a JSON file with a list of them, in any form that is taken.

    Raises:
        InputError: the file is no JSON, a field is missing or no text, there are no messages, a role is unknown,
            there is nothing to learn, or the file is empty. The message names file and line.
    """
    is_empty = True
    for place, record in _records(Path(path)):
        is_empty = False
        yield read_record(record, place)
    if is_empty:
        raise InputError(f"{path}: holds no conversation")


def read_record(record: Mapping[str, Any], place: str) -> Conversation | Completion:
    """Returns a record of any form that is taken.

    Args:
        record: the record; fields that are None count as missing.
        place: the place of the record, for messages.

    Raises:
        InputError: as for `read_conversations`.
    """
    record = {name: value for name, value in record.items() if value is not None}
    if "messages" in record or "conversations" in record:
        name = "messages" if "messages" in record else "conversations"
        messages, learned = read_messages(record[name], f"{place}: message")
        before = _system(record, place)
        return _conversation(before + messages, [False] * len(before) + learned, record, place)
    if {"prompt", "completion"} <= record.keys():
        return _prompt_and_completion(record, place)
    if {"instruction", "output"} <= record.keys():
        return _instruction(record, place)
    raise InputError(f"{place}: {_hint(record)}")


def is_conversation_file(path: str) -> bool:
    """Returns whether the first record of a JSONL or JSON file is a conversation rather than a text.

    A record that only looks like a conversation counts too, so that reading it tells what is wrong.
    """
    if not path.lower().endswith((".jsonl", ".ndjson", ".json")) or not Path(path).is_file():
        return False
    if path.lower().endswith(".json") and not Path(path).read_bytes()[:4096].lstrip(
        b"\xef\xbb\xbf \r\n\t"
    ).startswith(b"["):
        return False
    for _, record in _records(Path(path)):
        found = record.keys()
        if "messages" in found or "conversations" in found or {"instruction", "output"} <= found:
            return True
        return bool({"prompt", "chosen"} & found) or (
            "text" not in found and bool(_question_and_answer(record) or _dialogue(record))
        )
    return False


def _conversation(
    messages: list[Message], learned: list[bool], record: Mapping[str, Any], place: str
) -> Conversation:
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: no assistant's turn, so there is nothing to learn from")
    if not any(learned):
        raise InputError(
            f"{place}: every assistant's turn has weight 0, so there is nothing to learn; take it out"
        )
    return Conversation(messages, place, tuple(learned), _variables(record, place))


def _variables(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns what a record hands to the template beside its messages."""
    found = dict(record.get("chat_template_kwargs") or {})
    for name in ("tools", "documents"):
        value = record.get(name)
        if isinstance(value, str):  # Parquet and ShareGPT have it as a text
            try:
                value = json.loads(value or "[]")
            except ValueError as error:
                raise InputError(f"{place}: {name!r} is {short(record[name])}, which is not JSON") from error
        if value is not None and not (
            isinstance(value, list) and all(isinstance(one, dict) for one in value)
        ):
            raise InputError(f"{place}: {name!r} is {short(value)}, it must be a list of objects")
        if value:
            found[name] = value
    return found


def _prompt_and_completion(record: Mapping[str, Any], place: str) -> Conversation | Completion:
    prompt, completion = record["prompt"], record["completion"]
    if record.get("label") is False:
        raise InputError(
            f"{place}: 'label' false marks a bad completion, and those are not learned here; take the record out"
        )
    if isinstance(prompt, list) and isinstance(completion, list):
        before, _ = read_messages(prompt, f"{place}: 'prompt', message")
        after, learned = read_messages(completion, f"{place}: 'completion', message")
        return _conversation(before + after, [False] * len(before) + learned, record, place)
    for name in ("prompt", "completion"):
        if not isinstance(record[name], str):
            raise InputError(
                f"{place}: {name!r} is {short(record[name])}; 'prompt' and 'completion' must both be text, or both "
                "lists of messages"
            )
    return Completion(prompt, completion, place)


def _instruction(record: Mapping[str, Any], place: str) -> Conversation:
    """Returns Alpaca's record as messages, with the earlier turns in `history`, pairs of texts."""
    for name in ("instruction", "input", "output"):
        if not isinstance(record.get(name, ""), str):
            raise InputError(f"{place}: {name!r} is {short(record[name])}, it must be text")
    messages = _system(record, place)
    pairs = record.get("history", [])
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{place}: 'history' is {short(pairs)}, it must be a list of pairs of texts")
    question = "\n\n".join(filter(None, (record["instruction"], record.get("input"))))
    for asked, answered in [*pairs, (question, record["output"])]:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages, learned = read_messages(messages, f"{place}: message")
    return _conversation(messages, learned, record, place)


def _system(record: Mapping[str, Any], place: str) -> list[Message]:
    """Returns the system message of a record that has it in a field of its own."""
    if not record.get("system"):
        return []
    return [{"role": "system", "content": text_of(record["system"], f"{place}: 'system'")}]


def _question_and_answer(record: Mapping[str, Any]) -> tuple[str, str] | None:
    question = next((name for name in _QUESTIONS if name in record), None)
    answer = next((name for name in _ANSWERS if name in record and name != question), None)
    return (question, answer) if question and answer else None


def _dialogue(record: Mapping[str, Any]) -> str | None:
    return next((name for name in _DIALOGUES if isinstance(record.get(name), list)), None)


def _hint(record: Mapping[str, Any]) -> str:
    """Returns what a record that is not taken looks like, and what to do."""
    if {"chosen", "rejected"} <= record.keys():
        return (
            "'chosen' and 'rejected' are preferences, which are not learned here; to learn what was chosen, name it "
            "'messages' if it is a list of messages, or 'completion' beside a 'prompt'"
        )
    pair, dialogue = _question_and_answer(record), _dialogue(record)
    if dialogue:
        return f"{dialogue!r} looks like a conversation; name it 'messages', a list of {{'role', 'content'}}"
    if pair and pair != ("prompt", "completion"):
        return f"{pair[0]!r} and {pair[1]!r} look like a question and its answer; name them 'prompt' and 'completion'"
    return f"the fields are {sorted(record)}; {_TAKEN}"


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the place and the JSON object of each record: each line that is not blank, or each item of a list."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    if path.suffix.lower() == ".json" and content.lstrip().startswith(b"["):
        found = enumerate(_parsed(content, str(path)), 1)
        records: Any = ((f"{path}: record {number}", record) for number, record in found)
    else:
        lines = enumerate(content.split(b"\n"), 1)
        records = (
            (f"{path}:{number}", _parsed(line, f"{path}:{number}")) for number, line in lines if line.strip()
        )
    for place, record in records:
        if not isinstance(record, dict):
            raise InputError(f"{place}: {type(record).__name__} where a JSON object belongs")
        yield place, record


def _parsed(content: bytes, place: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8; convert the file with iconv -t UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {error}; each line must be one JSON object") from error
