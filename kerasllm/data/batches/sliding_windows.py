"""Overlapping windows for evaluation, which give each token as much context as window and stride allow."""

from __future__ import annotations

import numpy as np

from kerasllm.data.batches.base import MicroBatches
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


class SlidingBatches(MicroBatches):
    """Batches of overlapping windows, in which only the last `stride` labels count; in the first window all count.

    Every token of the text is predicted once, the first one of each document from `begin_id` or an end mark. The marks
    between documents are context, but are not predicted, as they are not part of the text.

    Args:
        stream: the tokenized text.
        context_length: number of tokens in a window.
        stride: number of tokens from one window to the next, at most `context_length`; a smaller stride gives more
            context and more work.
        batch_size: number of windows in a batch.
        begin_id: the token that a document begins with, in place of the end mark before it; None for the end mark.
        limit: the most batches; None for all.

    An item is (inputs, labels, weights): inputs a dict of `token_ids` int32, labels int32, weights float32, all
    (batch, context_length).

    Raises:
        InputError: the stride is above the window, or the text is empty.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        context_length: int,
        stride: int,
        batch_size: int,
        begin_id: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size)
        if not 1 <= stride <= context_length:
            raise InputError(f"stride {stride} must lie between 1 and the window of {context_length} tokens")
        self.context_length, self.stride = context_length, stride
        self.end_id = stream.end_id
        self.begin_id = stream.end_id if begin_id is None else begin_id
        self._tokens = np.asarray(stream.tokens)
        if not len(self._tokens):
            raise InputError("the text has no tokens")
        # Labels are tokens 0 … n - 1; the input before the first is `begin_id`.
        beyond = max(len(self._tokens) - context_length, 0)
        self.num_windows = 1 + -(-beyond // stride)
        batches = -(-self.num_windows // batch_size)
        self.set_steps(batches if limit is None else min(limit, batches))

    def batch(self, step: int) -> Batch:
        """Makes batch number `step`, counted from 0."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        places = numbers[:, None] * self.stride + np.arange(self.context_length)  # of the labels
        total = len(self._tokens)
        labels = self._tokens[np.minimum(places, total - 1)].astype(np.int32)
        inputs = self._tokens[np.clip(places - 1, 0, total - 1)].astype(np.int32)
        inputs[(places == 0) | (inputs == self.end_id)] = self.begin_id
        judged = places < total
        # Labels that counted in an earlier window.
        seen_before = np.where(numbers == 0, 0, self.context_length - self.stride)[:, None]
        judged &= np.arange(self.context_length) >= seen_before
        judged &= (numbers < self.num_windows)[:, None]
        judged &= labels != self.end_id
        return {"token_ids": inputs}, labels, judged.astype(np.float32)
