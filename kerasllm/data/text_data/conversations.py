"""Data sets of conversations in memory, of which the assistant's turns are learned."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from kerasllm.data.batches.conversations import ConversationBatches
from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.sources.conversations import read_record
from kerasllm.data.text_data.base import TextData
from kerasllm.data.text_data.texts import check_tokenizer
from kerasllm.errors import InputError, InputWarning, short
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE
from kerasllm.tokenizers.special_tokens import default_length, own_template


class ConversationData(TextData):
    """Conversations, or prompts with completions: a data set for fine-tuning a GPT with `fit`.

    Only the assistant's turns, or the completions, are learned. Several conversations share a row, without seeing one
    another; those that are longer than a row lose their end. Each epoch has every row once, in a new order that depends
    on the seed and the epoch alone. The last batch is filled up with rows of weight 0.

    Args:
        conversations: a list of conversations: dicts in the forms that `recipes/finetune_gpt.py` reads, such as
            `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}` or
            `{"prompt": "…", "completion": "…"}`; or lists of messages.
        tokenizer: the model's tokenizer.
        chat_template: a chat template in Hugging Face's form (Jinja); by default the tokenizer's own, or a plain one.
        context_length: number of tokens in a row; by default 512, or fewer if the tokenizer was saved with a model of
            fewer positions.
        batch_size: number of rows in a batch.
        shuffle: whether each epoch has a new order.
        seed: seed of the order.

    Attributes:
        num_cut: number of conversations that lost their end.

    An item is (inputs, labels, weights) for `GPTCausalLM`; see `kerasllm.data.batches.conversations`. Metrics belong
    into `weighted_metrics`.

    Raises:
        InputError: a conversation is of no known form, or there is nothing to learn; the message has its index.
    """

    wants = "a causal language model, such as GPTCausalLM"
    length_name = "context_length"

    def __init__(
        self,
        conversations: Any,
        *,
        tokenizer: Any,
        chat_template: str | None = None,
        context_length: int | None = None,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        check_tokenizer(tokenizer)
        template = chat_template or own_template(tokenizer) or DEFAULT_CHAT_TEMPLATE
        records = read_conversation_list(conversations)
        batches = ConversationBatches(
            encode_conversations(records, tokenizer, template),
            context_length=default_length(tokenizer, 512) if context_length is None else context_length,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
        )
        super().__init__(batches, shuffle=shuffle)
        self.num_cut = batches.num_cut
        if self.num_cut:
            warnings.warn(
                f"{self.num_cut:,} of {len(records):,} conversations are cut to context_length "
                f"{batches.context_length}",
                InputWarning,
                stacklevel=2,
            )

    @property
    def longest(self) -> int:
        """The length of a row."""
        return self.batches.context_length

    @property
    def greatest_token(self) -> int:
        """The greatest token id of the conversations."""
        return self.batches.greatest_token

    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm predicts next tokens."""
        return hasattr(model, "output_table")


def read_conversation_list(conversations: Any) -> list[Any]:
    """Returns records of conversations in memory, checked; see `ConversationData`.

    Raises:
        InputError: there is none, or one is of no known form; the message has its index.
    """
    if isinstance(conversations, str | bytes | Mapping) or not isinstance(conversations, Iterable):
        raise InputError(f"conversations is {short(conversations)}, it must be a list of conversations")
    found = []
    for index, record in enumerate(conversations):
        place = f"conversations[{index}]"
        if isinstance(record, list | tuple):
            record = {"messages": list(record)}
        if not isinstance(record, Mapping):
            raise InputError(f"{place} is {short(record)}, it must be a dict or a list of messages")
        found.append(read_record(record, place))
    if not found:
        raise InputError("conversations is empty: give at least one")
    return found
