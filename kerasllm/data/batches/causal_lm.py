"""Batches for causal language modeling: windows of a token stream, and the tokens that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kerasllm.data.batches.base import MicroBatches, PerEpoch, check_positive
from kerasllm.data.keyed_permutation import KeyedPermutation
from kerasllm.data.random_streams import WINDOWS, random_stream
from kerasllm.errors import InputError, counted

if TYPE_CHECKING:
    from kerasllm.data.token_cache.stream import TokenStream

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]

_MOST_IN_MEMORY = 2**24
"""Windows of a pass whose order is drawn and kept; that of more is computed, part by part."""


class CausalBatches(MicroBatches):
    """Batches of `steps` optimizer steps for causal language modeling.

    A window is `context_length` tokens of the stream. Windows are drawn without replacement: each pass over the stream
    divides it into adjacent windows from a random start, and takes them in random order. So no token is predicted
    twice before nearly all are predicted once, and every pass cuts the text differently. (Drawing with replacement
    would leave out more than a third of the text in one pass.) The order of more than 16 million windows is a
    `KeyedPermutation`, which needs no memory.

    Args:
        stream: the tokenized corpus.
        context_length: number of tokens in a window.
        batch_size: number of windows in a micro-batch.
        steps: number of optimizer steps of the whole run.
        seed: seed of the windows' places and order.
        start_step: the first step to return, counted from 0, for a resumed run.
        gradient_accumulation: number of micro-batches in a step.
        within_documents: whether attention stays within documents; the first token of a document is then not
            predicted from the end mark of the one before.
        normalize_weights: as for `MicroBatches`.
        prefetch: number of steps that are made ahead; 0 for none.

    An item is (inputs, labels, weights): inputs a dict of `token_ids` int32 (batch, length) and, within
    documents, `sequence_ids` (the number of the document within the window) and `position_ids` (restarting at
    each document), both int32 (batch, length); labels int32 (batch, length), the next tokens; weights float32
    (batch, length).

    Raises:
        InputError: a setting is out of range, or the stream is shorter than a window and the token after it.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        context_length: int,
        batch_size: int,
        steps: int,
        seed: int,
        start_step: int = 0,
        gradient_accumulation: int = 1,
        within_documents: bool = False,
        normalize_weights: bool | None = None,
        prefetch: int = 8,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            normalize_weights=normalize_weights,
        )
        check_positive(context_length=context_length, steps=steps)
        _check_length(stream, context_length)
        self.stream, self.context_length, self.seed = stream, context_length, seed
        self.within_documents = within_documents
        # Row i is the window that begins at token i, and the token after it: a view, which takes no memory.
        self._windows = np.lib.stride_tricks.sliding_window_view(
            np.asarray(stream.tokens), context_length + 1
        )
        # One window fewer than fit, so that the start of a pass can vary by at least a window's length.
        self._windows_of_pass = max((len(stream.tokens) - 1) // context_length - 1, 1)
        self._passes = PerEpoch(self._make_pass)
        random_stream(seed, WINDOWS, 0)  # an invalid seed raises here, not in a thread during fit
        self.set_steps(steps, start_step=start_step, prefetch=prefetch)

    @property
    def makes_rows(self) -> bool:  # type: ignore[override]
        """Whether all tokens have weight 1."""
        return not self.within_documents

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on a pass over the stream is a single step."""
        return max(self._windows_of_pass // self.gradient_accumulation, 1)

    def batch(self, step: int, rows: np.ndarray | slice = slice(None)) -> Batch:
        """Makes the windows of optimizer step `step`, counted from 0, or some of its rows.

        Args:
            step: the step.
            rows: the rows; by default all `batch_size * gradient_accumulation`.
        """
        size = self.examples_per_step
        windows = self._windows[self._starts(step * size, size)[rows]].astype(np.int32)
        inputs, labels, weights = make_batch(windows, self.stream.end_id, self.within_documents)
        return inputs, labels, self.normalized(weights, size / len(windows))

    def _starts(self, first: int, count: int) -> np.ndarray:
        """Returns where the windows number `first` and after begin, counted over all passes."""
        found = []
        while count:
            number, place = divmod(first, self._windows_of_pass)
            order, shift = self._passes[number]
            found.append(order[place : place + count] * self.context_length + shift)
            first, count = first + len(found[-1]), count - len(found[-1])
        return np.concatenate(found)

    def _make_pass(self, number: int) -> tuple[np.ndarray | KeyedPermutation, int]:
        """Returns the order in which the windows of a pass are used, and where the first of them begins."""
        random = random_stream(self.seed, WINDOWS, number)
        room = len(self._windows) - 1 - (self._windows_of_pass - 1) * self.context_length
        if self._windows_of_pass > _MOST_IN_MEMORY:
            return KeyedPermutation(self._windows_of_pass, random), int(random.integers(room + 1))
        return random.permutation(self._windows_of_pass), int(random.integers(room + 1))


class CausalEvaluationBatches(MicroBatches):
    """Batches of adjacent windows that cover the whole stream once, for evaluation, or once in each epoch.

    The last batch is filled up with windows of weight 0. Each token but the first is predicted once, except
    for those at the end that do not fill a window.

    With `shuffle`, steps from `steps` on are those of further epochs. Each epoch but the first cuts the stream at other
    places, as its first window is shorter, and has the windows in random order.

    Args:
        stream: the tokenized corpus.
        context_length: number of tokens in a window.
        batch_size: number of windows in a batch.
        limit: the most batches, from the beginning of the stream; None for all.
        within_documents: as for `CausalBatches`.
        keep_partial: whether to keep the last window if the stream does not fill it, with weight 0 beyond the end.
        shuffle: whether the windows have a random order, which differs by epoch; with `keep_partial` alone.
        seed: seed of the order.

    Items are those of `CausalBatches`; the weights are 1 or 0.

    Raises:
        InputError: a setting is out of range, or the stream is shorter than a window and the token after it.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        context_length: int,
        batch_size: int,
        limit: int | None = None,
        within_documents: bool = False,
        keep_partial: bool = False,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size)
        check_positive(context_length=context_length, limit=1 if limit is None else limit)
        if shuffle and not keep_partial:
            raise ValueError("shuffled windows cover the whole stream: give keep_partial=True")
        _check_length(stream, 1 if keep_partial else context_length)
        self.stream, self.context_length = stream, context_length
        self.within_documents = within_documents
        self._tokens = np.asarray(stream.tokens)
        predicted = len(self._tokens) - 1
        self._num_windows = -(-predicted // context_length) if keep_partial else predicted // context_length
        # A shorter first window may need one more at the end.
        self._num_windows += shuffle and predicted > context_length
        self.shuffle, self.seed = shuffle, seed
        self.steps_per_epoch = -(-self._num_windows // batch_size)
        self._orders = PerEpoch(self._make_order)
        random_stream(seed, WINDOWS, 0)  # an invalid seed raises here
        self.set_steps(self.steps_per_epoch if limit is None else min(self.steps_per_epoch, limit))

    def batch(self, step: int) -> Batch:
        """Makes batch number `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        shift, order = self._orders[epoch if self.shuffle else 0]
        numbers = np.arange(position * self.batch_size, (position + 1) * self.batch_size)
        real = numbers < self._num_windows
        # Windows that only fill up the batch repeat real ones.
        numbers = order[numbers % self._num_windows]
        starts = numbers * self.context_length - shift
        places = starts[:, None] + np.arange(self.context_length + 1)  # (batch, length + 1)
        exists = (places >= 0) & (places < len(self._tokens))
        rows = np.where(exists, self._tokens[np.where(exists, places, 0)], self.stream.end_id)
        inputs, labels, weights = make_batch(rows.astype(np.int32), self.stream.end_id, self.within_documents)
        weights *= exists[:, :-1] & exists[:, 1:] & real[:, None]
        return inputs, labels, weights

    def _make_order(self, epoch: int) -> tuple[int, np.ndarray]:
        """Returns how many tokens before the stream the first window begins, and the windows in the order of use."""
        if not self.shuffle:
            return 0, np.arange(self._num_windows)
        random = random_stream(self.seed, WINDOWS, epoch)
        shifts = self.context_length if self._num_windows > 1 else 1
        return int(random.integers(shifts)), random.permutation(self._num_windows)


def make_batch(rows: np.ndarray, end_id: int, within_documents: bool) -> Batch:
    """Returns inputs, labels and weights of windows.

    Args:
        rows: int32 (batch, length + 1), each window and the token after it.
        end_id: the end mark, which follows each document.
        within_documents: as for `CausalBatches`.
    """
    token_ids, labels = np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
    inputs = {"token_ids": token_ids}
    if not within_documents:
        return inputs, labels, np.ones(labels.shape, np.float32)
    ends = token_ids == end_id
    begins = np.zeros_like(ends)  # True at the token after an end mark
    begins[:, 1:] = ends[:, :-1]
    columns = np.arange(token_ids.shape[1], dtype=np.int32)
    inputs["sequence_ids"] = np.cumsum(begins, axis=1, dtype=np.int32)
    inputs["position_ids"] = columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return inputs, labels, (~ends).astype(np.float32)


def _check_length(stream: TokenStream, context_length: int) -> None:
    if len(stream.tokens) < context_length + 1:
        raise InputError(
            f"--context_length {context_length} is longer than the corpus of "
            f"{counted(len(stream.tokens), 'token')}: a window needs one token more than "
            "its length; give more text or shorter windows"
        )
