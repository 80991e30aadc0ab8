"""Conversations for supervised fine-tuning: JSON lines in, tokens and what is learnt of them out.

A conversation is rendered turn by turn with the tokenizer's chat template, and each turn is tokenized by itself:
what the assistant says begins where generation will begin, after the very tokens of the prompt, so that no token
spans the seam. Only the assistant's tokens are learnt.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.chat_template import render
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.special_tokens import end_of_text_id, marks

ROLES = ("system", "user", "assistant")
Message = dict[str, str]


@dataclass(frozen=True)
class Example:
    """One conversation, or prompt and completion, as tokens.

    Args:
        token_ids: int32 (tokens,).
        learnt: boolean (tokens,), True for the assistant's.
    """

    token_ids: np.ndarray
    learnt: np.ndarray


def read_conversations(
    path: Path,
    tokenizer: Tokenizer,
    template: str,
    *,
    template_name: str = "",
    end_token_id: int | None = None,
) -> list[Example]:
    """Reads a JSONL file of `{"messages": [{"role", "content"}, …]}` or `{"prompt", "completion"}`.

    Args:
        path: of the file; both kinds may be mixed in it.
        tokenizer: its end mark ends a completion.
        template: a chat template in Hugging Face's form (Jinja). Where it ends an assistant's turn by no end
            mark, one is learnt after the last turn, with an `InputWarning`: or answers would never end.
        template_name: the template's file, for messages.
        end_token_id: a token that ends a turn too, the model's own.

    Raises:
        InputError: names file and line: no JSON, a field is missing or no text, no messages, an unknown role,
            a role out of order, no assistant's turn, a special token within the text, or an unknown character.
    """
    turns = _Turns(tokenizer, template, template_name, end_token_id)
    examples = []
    for place, record in _records(path):
        if "messages" in record:
            pieces = turns.of_messages(check_messages(record["messages"], place), place)
        elif "prompt" in record and "completion" in record:
            for name in ("prompt", "completion"):
                if not isinstance(record[name], str) or not record[name]:
                    raise InputError(f"{place}: {name!r} is {record[name]!r}, it must be text")
                turns.check_text(record[name], f"{place}: {name!r}")
            pieces = [(record["prompt"], False), (record["completion"] + turns.end, True)]
        else:
            raise InputError(
                f"{place}: the fields are {sorted(record)}; give 'messages', or 'prompt' and 'completion'"
            )
        examples.append(turns.encode(pieces, place))
    if not examples:
        raise InputError(f"{path}: holds no conversation")
    return examples


def is_conversation_file(path: str) -> bool:
    """Whether a JSONL file's first record is a conversation rather than a text."""
    if not path.lower().endswith((".jsonl", ".ndjson")) or not Path(path).is_file():
        return False
    for _, record in _records(Path(path)):
        return "messages" in record or "prompt" in record
    return False


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
    """A conversation that may be learnt from: an optional system message, then user and assistant in turn.

    Args:
        messages: whatever stood in the file.
        place: of the conversation, for messages.

    Raises:
        InputError: names the place, the message and the fault.
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


class _Turns:
    """Conversations in pieces, and pieces as tokens.

    Args:
        tokenizer: with an end mark.
        template: a chat template in Hugging Face's form.
        template_name: its file.
        end_token_id: a token that ends a turn beside the end mark.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str, template_name: str, end_token_id: int | None
    ) -> None:
        self.tokenizer, self.template, self.template_name = tokenizer, template, template_name
        self.end_id = end_of_text_id(tokenizer)
        self.ends = {self.end_id, end_token_id}
        self.has_warned = False
        self.end, self.beginning = marks(tokenizer) or ("", "")
        added = tokenizer.get_added_tokens_decoder().values()
        self.special = [token.content for token in added if token.special]

    def check_text(self, text: str, place: str) -> None:
        """Refuses a text that would end its turn, or begin another, by itself."""
        for token in self.special:
            if token in text:
                raise InputError(f"{place} contains {token}, which is no text to this tokenizer; take it out")

    def warn_of_no_end(self) -> None:
        """Once a file."""
        if not self.has_warned:
            name = f"{self.template_name}: " if self.template_name else ""
            warnings.warn(
                f"{name}the chat template puts no end mark after an assistant's turn; {self.end} is learnt after the "
                "last one, so that answers end: write {{ eos_token }} there to learn it after each",
                InputWarning,
                stacklevel=4,
            )
        self.has_warned = True

    def render(self, messages: list[Message], place: str, add_generation_prompt: bool = False) -> str:
        return render(
            messages,
            self.template,
            end=self.end,
            beginning=self.beginning,
            add_generation_prompt=add_generation_prompt,
            place=f"{place}: {self.template_name}" if self.template_name else place,
        )

    def of_messages(self, messages: list[Message], place: str) -> list[tuple[str, bool]]:
        """The rendered conversation up to its last learnt word, each piece with whether it is learnt."""
        pieces: list[tuple[str, bool]] = []
        done = ""
        for number, message in enumerate(messages, 1):
            self.check_text(message["content"], f"{place}: message {number}")
            if message["role"] != "assistant":
                continue
            prompt = self.render(messages[: number - 1], place, add_generation_prompt=True)
            whole = self.render(messages[:number], place)
            if not (prompt.startswith(done) and whole.startswith(prompt)):
                raise InputError(
                    f"{place}: message {number}: the chat template changes what was said before; "
                    "a template for training must only add to it"
                )
            pieces += [(prompt[len(done) :], False), (whole[len(prompt) :], True)]
            done = whole
        return pieces

    def encode(self, pieces: list[tuple[str, bool]], place: str) -> Example:
        """Tokenizes piece by piece; what follows the end mark of an assistant's turn is not learnt."""
        ids: list[int] = []
        end: int | None = None
        learnt: list[bool] = []
        for text, is_learnt in pieces:
            found = encode(self.tokenizer, text, place, special_tokens=True)
            end = next((number for number, token in enumerate(found, 1) if token in self.ends), None)
            learnt += [is_learnt] * (end or len(found)) + [False] * (len(found) - (end or len(found)))
            ids += found
        if end is None:  # of the last piece, an assistant's turn
            self.warn_of_no_end()
            ids.append(self.end_id)
            learnt.append(True)
        return Example(np.array(ids, np.int32), np.array(learnt, bool))
