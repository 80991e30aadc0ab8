"""Conversations packed into windows, several to a row, none of which sees another.

Rows are filled once, the longest conversations first; each epoch shuffles the rows anew. A batch is a pure
function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from kerasllm.data.batches.packing import pack
from kerasllm.data.batches.prefetch import Prefetcher
from kerasllm.data.sources.conversations import Example
from kerasllm.errors import InputError

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


class ConversationBatches(keras.utils.PyDataset):
    """Batches of packed conversations for a `GPTCausalLM`.

    Args:
        examples: conversations; what is longer than a row is cut at its end.
        context_length: tokens of a row.
        batch_size: rows of a batch.
        epochs: passes over all rows; the last batch of each is filled up with rows of weight 0.
        seed: of the order.
        start_step: batches done before.
        shuffle: whether rows come in a new order in each epoch.
        pad_id: token of unused places.
        prefetch: batches made ahead, 0 for none.

    An item is (inputs, labels, weights): inputs `token_ids`, `segment_ids` (the number of the conversation
    within its row; padding has -1) and `position_ids` (from 0 in each conversation), labels, all int32, and
    weights float32, all (batch, context_length); a weight is 1 where the label is an assistant's token.

    Attributes:
        num_rows: rows of an epoch.
        num_cut: conversations that were cut.
        num_dropped: conversations of which nothing to learn was left.
        fill: share of the places that hold tokens.
        learnt_tokens: tokens that count, of an epoch.

    Raises:
        InputError: nothing to learn is left of any conversation.

    Reference: Krell et al. 2021, https://arxiv.org/abs/2107.02027.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        context_length: int,
        batch_size: int,
        epochs: int = 1,
        seed: int = 0,
        start_step: int = 0,
        shuffle: bool = True,
        pad_id: int = 0,
        prefetch: int = 2,
    ) -> None:
        super().__init__()
        self.context_length, self.batch_size = context_length, batch_size
        self.seed, self.start_step, self.shuffle, self.pad_id = seed, start_step, shuffle, pad_id
        # A row of n inputs takes n + 1 tokens: the last is only a label.
        kept = [Example(e.token_ids[: context_length + 1], e.learnt[: context_length + 1]) for e in examples]
        self.num_cut = sum(len(e.token_ids) > context_length + 1 for e in examples)
        self._examples = [e for e in kept if e.learnt[1:].any()]
        self.num_dropped = len(kept) - len(self._examples)
        if not self._examples:
            raise InputError(
                f"--context_length {context_length} leaves nothing to learn of any of {len(kept)} "
                "conversations: raise it"
            )
        lengths = [len(e.token_ids) - 1 for e in self._examples]
        self._rows = pack(lengths, context_length)
        self.num_rows = len(self._rows)
        self.fill = sum(lengths) / (self.num_rows * context_length)
        self.learnt_tokens = int(sum(e.learnt[1:].sum() for e in self._examples))
        self.steps_per_epoch = -(-self.num_rows // batch_size)
        self.steps = self.steps_per_epoch * epochs
        self._ahead = Prefetcher(self.batch, depth=prefetch, stop=self.steps)

    @property
    def summary(self) -> str:
        """What is in an epoch, in one line for people."""
        count = len(self._examples) + self.num_dropped
        cut = f", {self.num_cut} cut at {self.context_length} tokens" if self.num_cut else ""
        left = f", {self.num_dropped} left out: nothing to learn within the cut" if self.num_dropped else ""
        return (
            f"{count:,} conversations in {self.num_rows:,} rows, {100 * self.fill:.0f} % full, "
            f"{self.learnt_tokens:,} tokens to learn{cut}{left}"
        )

    def __len__(self) -> int:
        """The batches left from `start_step` on."""
        return self.steps - self.start_step

    def __getitem__(self, index: int) -> Batch:
        """Batch `index`, counted from `start_step`."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self._ahead.get(self.start_step + index)

    def batch(self, step: int) -> Batch:
        """Batch number `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.arange(self.num_rows)
        if self.shuffle:
            order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.num_rows)
        shape = (self.batch_size, self.context_length)
        token_ids = np.full(shape, self.pad_id, np.int32)
        labels = np.full(shape, self.pad_id, np.int32)
        segment_ids = np.full(shape, -1, np.int32)
        position_ids = np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        for row, number in enumerate(chosen):
            start = 0
            for segment, index in enumerate(self._rows[number]):
                example = self._examples[index]
                place = (row, slice(start, start + len(example.token_ids) - 1))
                token_ids[place], labels[place] = example.token_ids[:-1], example.token_ids[1:]
                segment_ids[place] = segment
                position_ids[place] = np.arange(len(example.token_ids) - 1)
                weights[place] = example.learnt[1:]
                start = place[1].stop
        inputs = {"token_ids": token_ids, "segment_ids": segment_ids, "position_ids": position_ids}
        return inputs, labels, weights
