"""Batches of conversations, several of which are packed into a row without attending to one another.

Conversations are packed once, the longest first; each epoch shuffles the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasllm.data.batches.base import MicroBatches, PerEpoch, check_positive
from kerasllm.data.batches.packing import PackedRows, Rows, pack
from kerasllm.data.examples.conversations import EncodedConversation
from kerasllm.errors import InputError, counted

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


class ConversationBatches(MicroBatches):
    """Batches of packed conversations for a `GPTCausalLM`.

    Args:
        conversations: the conversations; those that are longer than a row lose their end.
        context_length: number of tokens in a row.
        batch_size: number of rows in a micro-batch.
        epochs: number of passes over all rows; the last step of each is filled up with rows of weight 0.
        seed: seed of the order.
        start_step: the first step to return, counted from 0, for a resumed run.
        gradient_accumulation: number of micro-batches in a step.
        normalize_weights: as for `MicroBatches`.
        shuffle: whether each epoch has a new order of the rows.
        pad_id: the padding token.
        prefetch: number of steps that are made ahead; 0 for none.

    An item is (inputs, labels, weights): inputs `token_ids`, `sequence_ids` (the number of the conversation
    within its row; padding has -1) and `position_ids` (from 0 in each conversation), labels, all int32, and
    weights float32, all (batch, context_length); a weight is 1 where the label is an assistant's token.

    Attributes:
        num_rows: number of rows in an epoch.
        num_cut: number of conversations that were cut.
        num_dropped: number of conversations without a learned token within a row's length.
        fill: share of the rows' places that hold tokens.
        learnt_tokens: number of tokens with weight 1 in an epoch.
        steps_per_epoch: number of optimizer steps in an epoch.

    Raises:
        InputError: a setting is out of range, or nothing to learn is left of any conversation.

    Reference: Krell et al. 2021, https://arxiv.org/abs/2107.02027.
    """

    def __init__(
        self,
        conversations: Sequence[EncodedConversation],
        *,
        context_length: int,
        batch_size: int,
        epochs: int = 1,
        seed: int = 0,
        start_step: int = 0,
        gradient_accumulation: int = 1,
        normalize_weights: bool | None = None,
        shuffle: bool = True,
        pad_id: int = 0,
        prefetch: int = 2,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            normalize_weights=normalize_weights,
        )
        check_positive(context_length=context_length, epochs=epochs)
        self.context_length, self.seed, self.shuffle, self.pad_id = context_length, seed, shuffle, pad_id
        # n inputs need n + 1 tokens, of which the last is only a label.
        kept = [talk.cut(context_length + 1) for talk in conversations]
        self.num_cut = sum(len(talk.token_ids) > context_length + 1 for talk in conversations)
        self._conversations = [talk for talk in kept if talk.learnt[1:].any()]
        self.num_dropped = len(kept) - len(self._conversations)
        if not self._conversations:
            raise InputError(
                f"--context_length {context_length} leaves nothing to learn of any of {len(kept)} "
                "conversations: raise it"
            )
        self._lengths = np.array([len(talk.token_ids) - 1 for talk in self._conversations])
        self._rows = Rows.of(pack(self._lengths, context_length))
        self.num_rows = len(self._rows)
        self.fill = float(self._lengths.sum() / (self.num_rows * context_length))
        self.learnt_tokens = int(sum(talk.learnt[1:].sum() for talk in self._conversations))
        self.steps_per_epoch = -(-self.num_rows // self.examples_per_step)
        self._orders = PerEpoch(self._make_order)
        self.set_steps(self.steps_per_epoch * epochs, start_step=start_step, prefetch=prefetch)

    @property
    def num_conversations(self) -> int:
        """The number of conversations, with those that are left out since nothing in them is learned."""
        return len(self._conversations) + self.num_dropped

    @property
    def greatest_token(self) -> int:
        """The greatest token id of all conversations."""
        return max(int(talk.token_ids.max()) for talk in self._conversations)

    @property
    def summary(self) -> str:
        """A line of text that describes an epoch."""
        count = self.num_conversations
        cut = f", {self.num_cut} cut at {self.context_length} tokens" if self.num_cut else ""
        left = f", {self.num_dropped} left out: nothing to learn within the cut" if self.num_dropped else ""
        return (
            f"{counted(count, 'conversation')} in {counted(self.num_rows, 'row')}, {100 * self.fill:.0f} % full, "
            f"{counted(self.learnt_tokens, 'token')} to learn{cut}{left}"
        )

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on an epoch is a single step."""
        return -(-self.num_rows // self.gradient_accumulation)

    def batch(self, step: int) -> Batch:
        """Makes all `batch_size * gradient_accumulation` rows of optimizer step `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        size = self.examples_per_step
        chosen, counts = self._rows.take(self._orders[epoch][position * size : (position + 1) * size])
        counts = np.pad(counts, (0, size - len(counts)))
        talks = [self._conversations[number] for number in chosen]
        tokens = {
            "token_ids": np.concatenate([talk.token_ids[:-1] for talk in talks]),
            "labels": np.concatenate([talk.token_ids[1:] for talk in talks]),
            "weights": np.concatenate([talk.learnt[1:] for talk in talks]),
        }
        packed = PackedRows(self._lengths[chosen], counts, self.context_length, self._rows.most)
        rows = packed.inputs(tokens, {"token_ids": self.pad_id, "labels": self.pad_id})
        inputs = {name: rows[name] for name in ("token_ids", "sequence_ids", "position_ids")}
        return inputs, rows["labels"], self.normalized(rows["weights"].astype(np.float32))

    def _make_order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_rows)
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.num_rows)
