"""A conversation with a model, of which the oldest turns are dropped when the context window is full."""

from __future__ import annotations

import sys
from typing import Any

from kerasllm.errors import InputError
from kerasllm.generation.terminal import TerminalWriter
from kerasllm.tokenizers.chat_template import render
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.special_tokens import end_of_text_id, template_tokens


class NotTaken(InputError):
    """The error for a message that the model cannot take; the conversation can go on."""


class Chat:
    """The messages of a conversation, as the model sees them.

    Args:
        tokenizer: the model's tokenizer.
        template: a chat template in Hugging Face's form.
        room: the most tokens that the messages may take; the oldest turns are dropped beyond it.
        place: where the template comes from, for messages.
    """

    def __init__(self, tokenizer: Any, template: str, room: int, place: str) -> None:
        self.tokenizer, self.template, self.room, self.place = tokenizer, template, room, place
        self.messages: list[dict[str, str]] = []

    def ask(self, line: str) -> list[int]:
        """Adds a user's message, and returns the tokens of the conversation up to the answer that follows.

        Raises:
            NotTaken: a character is unknown, or the message alone is too long.
            InputError: the template is broken, or the tokenizer does not know a character of it.
        """
        try:
            encode(self.tokenizer, line, "your message", special_tokens=True)
        except InputError as error:
            raise NotTaken(str(error)) from error
        asked = [*self.messages, {"role": "user", "content": line}]
        while True:
            ids = self._encoded(asked)
            if len(ids) <= self.room:
                break
            if len(asked) < 3:
                raise NotTaken(
                    f"your message makes {len(ids)} tokens, there is room for {self.room}: shorten it, or lower "
                    "--max_new_tokens"
                )
            asked = asked[2:]
            print("(the oldest turn is forgotten: the window is full)", file=sys.stderr)
        self.messages = asked
        return ids

    def answer(self, text: str) -> None:
        """Adds the model's answer; if it is empty, the question is removed too, as turns must alternate."""
        if text.strip():
            self.messages.append({"role": "assistant", "content": text.strip()})
        else:
            self.messages.pop()
            print("(an empty answer: this turn is forgotten)", file=sys.stderr)

    def _encoded(self, messages: list[dict[str, str]]) -> list[int]:
        text = render(
            messages,
            self.template,
            tokens=template_tokens(self.tokenizer),
            add_generation_prompt=True,
            place=self.place,
        )
        place = f"{self.place}: the chat template" if self.place else "the chat template"
        return encode(self.tokenizer, text, place, special_tokens=True)


def talk(model: Any, tokenizer: Any, template: str, settings: dict[str, Any], *, place: str) -> None:
    """Reads lines from standard input and answers each, until an empty line or the end.

    Args:
        model: a model with `generate`.
        tokenizer: the model's tokenizer.
        template: a chat template in Hugging Face's form.
        settings: the settings of `generate`; `max_new_tokens` is filled in if it is None.
        place: where the template comes from, for messages.

    Raises:
        InputError: `max_new_tokens` leaves no room for a message, or the template is broken.
    """
    stops = list(dict.fromkeys([end_of_text_id(tokenizer), *model.config.end_token_ids]))
    positions = model.config.max_sequence_length
    settings["max_new_tokens"] = settings["max_new_tokens"] or min(128, positions // 2)
    room = positions - settings["max_new_tokens"]
    if room < 1:
        raise InputError(
            f"--max_new_tokens {settings['max_new_tokens']} leaves no room for a message in the model's {positions} "
            "positions: lower it"
        )
    conversation = Chat(tokenizer, template, room, place)
    while (line := _next_message()) is not None:
        try:
            ids = conversation.ask(line)
        except NotTaken as error:
            print(f"error: {error}", file=sys.stderr)  # a typing error must not end the conversation
            continue
        writer = TerminalWriter(tokenizer, ids, settings["stop"])
        model.generate(ids, tokenizer=tokenizer, on_tokens=writer, stop_token_ids=stops, **settings)
        conversation.answer(writer.end())


def _next_message() -> str | None:
    """Returns a line from standard input, or None at the end of the input or if the line is empty."""
    try:
        line = input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise InputError(
            f"your message: not UTF-8 at byte {error.start}; set the terminal to UTF-8, or convert what is piped in "
            "with iconv -t UTF-8"
        ) from error
    return line if line.strip() else None
