"""Encoding of conversations for supervised fine-tuning, in which only the assistant's tokens are learned.

A conversation is rendered with the tokenizer's chat template, and the whole text is tokenized at once, as it is when
chatting. The tokens that lie in an assistant's turn, from the end of its prompt to its end mark, are learned.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.conversations import Completion, Conversation
from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.added_tokens import added_ids
from kerasllm.tokenizers.chat_template import render
from kerasllm.tokenizers.encoding import encoding_of
from kerasllm.tokenizers.special_tokens import end_of_text_id, marks, template_tokens


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation, or a prompt with its completion, as tokens.

    Args:
        token_ids: int32 (tokens,).
        learnt: boolean (tokens,), True for the tokens that are learned, those of the assistant.
    """

    token_ids: np.ndarray
    learnt: np.ndarray

    def cut(self, length: int) -> EncodedConversation:
        """Returns the first `length` tokens."""
        return EncodedConversation(self.token_ids[:length], self.learnt[:length])


def encode_conversations(
    conversations: Iterable[Conversation | Completion],
    tokenizer: Tokenizer,
    template: str,
    *,
    template_name: str = "",
    end_token_id: int | Sequence[int] | None = None,
) -> list[EncodedConversation]:
    """Returns conversations as tokens, with a mask of those that are learned.

    The tokens of messages are those of the text that the template makes of them, up to the end of the last turn that is
    learned. A prompt and its completion begin as the tokenizer begins a text, and end with its end mark.

    Args:
        conversations: the conversations, as `read_conversations` yields them.
        tokenizer: the tokenizer, whose end mark ends a completion.
        template: a chat template in Hugging Face's form (Jinja). If it puts no end mark after an assistant's turn,
            one is added after the last turn, with an `InputWarning`, as answers would otherwise never end.
        template_name: the template's file, for messages.
        end_token_id: the model's end token or tokens, which also end a turn.

    Raises:
        InputError: a record is invalid, a text holds a special token or an unknown character, or the template cannot
            be used.
    """
    encoder = _Encoder(tokenizer, template, template_name, end_token_id)
    return [
        encoder.of_completion(record) if isinstance(record, Completion) else encoder.of_messages(record)
        for record in conversations
    ]


class _Encoder:
    """An encoder that finds the parts of a text that are learned, and tokenizes the whole.

    Args:
        tokenizer: a tokenizer with an end mark.
        template: a chat template in Hugging Face's form.
        template_name: the template's file, for messages.
        end_token_id: tokens that end a turn in addition to the end mark.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        template_name: str,
        end_token_id: int | Sequence[int] | None,
    ) -> None:
        self.tokenizer, self.template, self.template_name = tokenizer, template, template_name
        self.end_id = end_of_text_id(tokenizer)
        others = end_token_id if isinstance(end_token_id, Sequence) else [end_token_id]
        self.ends = {self.end_id, *others}
        self.tokens = template_tokens(tokenizer)
        self.warned: set[str] = set()
        self.end, _ = marks(tokenizer) or ("", "")
        added = tokenizer.get_added_tokens_decoder().values()
        self.special = [token.content for token in added if token.special]

    def check_text(self, value: Any, place: str) -> None:
        """Refuses a special token in any text of a message, which could end its turn or begin another."""
        for token in self.special:
            if isinstance(value, str) and token in value:
                raise InputError(f"{place} contains {token}, which is no text to this tokenizer; take it out")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for part in inner:
            self.check_text(part, place)

    def warn_of_template(self, kind: str, words: str) -> None:
        """Warns of the template, once for each kind of warning."""
        name = f"{self.template_name}: " if self.template_name else ""
        self.warn(kind, f"{name}the chat template {words}")

    def warn(self, kind: str, words: str) -> None:
        """Warns, once for each kind of warning."""
        if kind not in self.warned:
            warnings.warn(words, InputWarning, stacklevel=6)
        self.warned.add(kind)

    def warn_of_nothing(self, place: str) -> None:
        """Warns once that an answer is empty."""
        self.warn("empty", f"{place}: an empty answer, of which only the end is learned; others may follow")

    def render(self, talk: Conversation, count: int, add_generation_prompt: bool = False) -> str:
        """Returns the text that the template makes of the first `count` messages."""
        return render(
            talk.messages[:count],
            self.template,
            tokens=self.tokens,
            add_generation_prompt=add_generation_prompt,
            place=f"{talk.place}: {self.template_name}" if self.template_name else talk.place,
            **talk.variables,
        )

    def of_messages(self, talk: Conversation) -> EncodedConversation:
        """Returns the tokens up to the end of the last turn that is learned."""
        for number, message in enumerate(talk.messages, 1):
            self.check_text(message, f"{talk.place}: message {number}")
        learned = talk.learned or [message["role"] == "assistant" for message in talk.messages]
        turns = [number for number, is_learned in enumerate(learned) if is_learned]
        for turn in turns:
            if not (talk.messages[turn].get("content") or talk.messages[turn].get("tool_calls")):
                self.warn_of_nothing(f"{talk.place}: message {turn + 1}")
        text = self.render(talk, turns[-1] + 1)
        self.check_template(talk, text)
        encoding = encoding_of(self.tokenizer, text, talk.place, special_tokens=True)
        ids, offsets = np.array(encoding.ids, np.int32), np.array(encoding.offsets).reshape(-1, 2)
        learnt = np.zeros(len(ids), bool)
        has_end = False
        for turn in turns:
            start, stop = self.place_of_turn(talk, turn, text)
            places = np.flatnonzero(_within(offsets, start, len(text) if stop is None else stop))
            ends = np.flatnonzero(np.isin(ids[places], [end for end in self.ends if end is not None]))
            has_end = bool(len(ends))
            if stop is None and not has_end:
                raise _changes_what_was_said(talk.place, turn)
            learnt[places[: ends[0] + 1] if has_end else places] = True
        if not has_end:
            self.warn_of_template(
                "end",
                f"puts no end mark after an assistant's turn; {self.end} is learned after the last one, so that "
                "answers end: write {{ eos_token }} there to learn it after each",
            )
            ids, learnt = np.append(ids, np.int32(self.end_id)), np.append(learnt, True)
        return EncodedConversation(ids, learnt)

    def place_of_turn(self, talk: Conversation, turn: int, text: str) -> tuple[int, int | None]:
        """Returns where an assistant's turn begins and ends in the text; None if the end token alone tells its end."""
        try:
            prompt = self.render(talk, turn, add_generation_prompt=True)
        except InputError as error:
            if turn:
                raise
            raise InputError(
                f"{talk.place}: the chat template cannot begin with an assistant's turn; begin with a user's"
            ) from error
        if not text.startswith(prompt):
            raise _changes_what_was_said(talk.place, turn)
        through = self.render(talk, turn + 1)
        return len(prompt), len(through) if text.startswith(through) else None

    def check_template(self, talk: Conversation, text: str) -> None:
        """Refuses or tells of a template that leaves out a part of a conversation."""
        calls = [number for number, message in enumerate(talk.messages, 1) if message.get("tool_calls")]
        if calls and "tool_call" not in self.template:
            raise InputError(
                f"{talk.place}: message {calls[0]}: the chat template writes no tool calls; "
                "give one that does with --chat_template"
            )
        if "tools" in talk.variables and "tools" not in self.template:
            self.warn_of_template("tools", f"does not show the 'tools' of a conversation ({talk.place})")
        for number, message in enumerate(talk.messages, 1):
            if message["role"] == "developer" and message.get("content", "").strip() not in text:
                raise InputError(
                    f"{talk.place}: message {number}: the chat template leaves out the role 'developer'; "
                    "name the role 'system', or give a template with --chat_template"
                )

    def of_completion(self, pair: Completion) -> EncodedConversation:
        """Returns the tokens of the prompt and the completion, as one text, and an end mark."""
        for name in ("prompt", "completion"):
            self.check_text(getattr(pair, name), f"{pair.place}: {name!r}")
        if not pair.completion:
            self.warn_of_nothing(f"{pair.place}: 'completion'")
        encoding = encoding_of(self.tokenizer, pair.prompt + pair.completion, pair.place)
        beginning, _ = added_ids(self.tokenizer)
        ends = np.array(encoding.offsets).reshape(-1, 2)[:, 1]
        learnt = np.concatenate([np.zeros(len(beginning), bool), ends > len(pair.prompt), [True]])
        return EncodedConversation(np.array([*beginning, *encoding.ids, self.end_id], np.int32), learnt)


def _within(offsets: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns which tokens lie, at least partly, between two places of a text.

    Some tokenizers trim the offsets of white space, so that a token of nothing else is empty and lies at its end.
    """
    return (offsets[:, 1] > start) & ((offsets[:, 0] < stop) | (offsets[:, 1] <= stop))


def _changes_what_was_said(place: str, turn: int) -> InputError:
    return InputError(
        f"{place}: message {turn + 1}: the chat template changes what was said before; "
        "a template for training must only add to it"
    )
