"""Encoding of conversations for supervised fine-tuning, in which only the assistant's tokens are learned.

A conversation is rendered turn by turn with the tokenizer's chat template, and each turn is tokenized separately, so
that no token spans two turns. An answer then follows the same prompt tokens as in generation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.conversations import Completion, Conversation, Message
from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.chat_template import render
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.special_tokens import end_of_text_id, marks


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
    end_token_id: int | None = None,
) -> list[EncodedConversation]:
    """Returns conversations as tokens, with a mask of those that are learned.

    Args:
        conversations: the conversations, as `read_conversations` yields them.
        tokenizer: the tokenizer, whose end mark ends a completion.
        template: a chat template in Hugging Face's form (Jinja). If it puts no end mark after an assistant's turn,
            one is added after the last turn, with an `InputWarning`, as answers would otherwise never end.
        template_name: the template's file, for messages.
        end_token_id: the model's end token, which also ends a turn.

    Raises:
        InputError: a record is invalid, a text holds a special token or an unknown character, or the template cannot
            be used.
    """
    encoder = _Encoder(tokenizer, template, template_name, end_token_id)
    found = []
    for record in conversations:
        if isinstance(record, Completion):
            pieces = encoder.of_completion(record)
        else:
            pieces = encoder.of_messages(record.messages, record.place)
        found.append(encoder.encode(pieces, record.place))
    return found


class _Encoder:
    """An encoder that splits conversations into pieces, learned and not learned, and tokenizes them.

    Args:
        tokenizer: a tokenizer with an end mark.
        template: a chat template in Hugging Face's form.
        template_name: the template's file, for messages.
        end_token_id: a token that ends a turn in addition to the end mark.
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
        """Refuses a text with a special token, which could end its turn or begin another."""
        for token in self.special:
            if token in text:
                raise InputError(f"{place} contains {token}, which is no text to this tokenizer; take it out")

    def warn_of_no_end(self) -> None:
        """Warns once that the template puts no end mark after a turn."""
        if not self.has_warned:
            name = f"{self.template_name}: " if self.template_name else ""
            warnings.warn(
                f"{name}the chat template puts no end mark after an assistant's turn; {self.end} is learned after the "
                "last one, so that answers end: write {{ eos_token }} there to learn it after each",
                InputWarning,
                stacklevel=4,
            )
        self.has_warned = True

    def render(self, messages: list[Message], place: str, add_generation_prompt: bool = False) -> str:
        """Returns the text that the template makes of some messages."""
        return render(
            messages,
            self.template,
            end=self.end,
            beginning=self.beginning,
            add_generation_prompt=add_generation_prompt,
            place=f"{place}: {self.template_name}" if self.template_name else place,
        )

    def of_messages(self, messages: list[Message], place: str) -> list[tuple[str, bool]]:
        """Returns the text up to the last assistant's turn as pieces, each with whether it is learned."""
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

    def of_completion(self, pair: Completion) -> list[tuple[str, bool]]:
        """Returns the prompt, and the completion with an end mark, each with whether it is learned."""
        for name in ("prompt", "completion"):
            self.check_text(getattr(pair, name), f"{pair.place}: {name!r}")
        return [(pair.prompt, False), (pair.completion + self.end, True)]

    def encode(self, pieces: list[tuple[str, bool]], place: str) -> EncodedConversation:
        """Returns the tokens of the pieces; those after the end mark of an assistant's turn are not learned."""
        ids: list[int] = []
        end: int | None = None
        learnt: list[bool] = []
        for text, is_learnt in pieces:
            found = encode(self.tokenizer, text, place, special_tokens=True)
            end = next((number for number, token in enumerate(found, 1) if token in self.ends), None)
            learnt += [is_learnt] * (end or len(found)) + [False] * (len(found) - (end or len(found)))
            ids += found
        if end is None:  # the last piece is an assistant's turn
            self.warn_of_no_end()
            ids.append(self.end_id)
            learnt.append(True)
        return EncodedConversation(np.array(ids, np.int32), np.array(learnt, bool))
