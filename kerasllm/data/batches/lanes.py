"""Batches for recurrent models: lanes of a token stream, of which each batch has the next part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kerasllm.data.batches.base import MicroBatches, check_positive
from kerasllm.data.batches.causal_lm import Batch
from kerasllm.data.random_streams import WINDOWS, random_stream
from kerasllm.errors import InputError, counted

if TYPE_CHECKING:
    from kerasllm.data.token_cache.stream import TokenStream


class LaneBatches(MicroBatches):
    """Batches of `steps` optimizer steps for truncated back-propagation through time.

    The stream is cut into as many lanes as a step has rows, and each step has the next `context_length` tokens of every
    lane. At the end of the lanes a new pass begins, whose lanes begin at other places, drawn at random.

    Args:
        stream: the tokenized corpus.
        context_length: number of tokens of a row.
        batch_size: number of rows of a micro-batch.
        steps: number of optimizer steps of the whole run.
        seed: seed of the places where lanes begin.
        start_step: the first step to return, counted from 0, for a resumed run.
        gradient_accumulation: number of micro-batches in a step, each of which has lanes of its own.
        prefetch: number of steps that are made ahead; 0 for none.

    An item is (inputs, labels, weights): inputs a dict of `token_ids` int32 (batch, length) and `continues` int32
    (batch,), 0 in the first step of a pass and else 1; labels int32 (batch, length), the next tokens; weights float32
    (batch, length).

    Raises:
        InputError: a setting is out of range, or the stream is too short for one part of each lane.
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
        prefetch: int = 8,
    ) -> None:
        super().__init__(batch_size=batch_size, gradient_accumulation=gradient_accumulation)
        check_positive(context_length=context_length, steps=steps)
        self.context_length, self.seed = context_length, seed
        self._tokens = np.asarray(stream.tokens)
        rows = self.examples_per_step
        self.steps_per_pass = (len(self._tokens) - 1) // (rows * context_length)
        if not self.steps_per_pass:
            raise InputError(
                f"--batch_size {rows} lanes of --context_length {context_length} tokens are more than the corpus of "
                f"{counted(len(self._tokens), 'token')}: give more text, or lower one of them"
            )
        random_stream(seed, WINDOWS, 0)  # an invalid seed raises here, not in a thread during fit
        self.set_steps(steps, start_step=start_step, prefetch=prefetch)

    makes_rows = True

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on a pass over the stream is a single step."""
        return max((len(self._tokens) - 1) // (self.context_length * self.gradient_accumulation), 1)

    def batch(self, step: int, rows: np.ndarray | slice = slice(None)) -> Batch:
        """Makes all rows of optimizer step `step`, counted from 0, or some of them."""
        number, place = divmod(step, self.steps_per_pass)
        count, lane = self.examples_per_step, self.steps_per_pass * self.context_length
        room = len(self._tokens) - 1 - count * lane
        first = int(random_stream(self.seed, WINDOWS, number).integers(room + 1))
        starts = first + np.arange(count)[rows] * lane + place * self.context_length
        tokens = self._tokens[starts[:, None] + np.arange(self.context_length + 1)].astype(np.int32)
        weights = np.ones((len(tokens), self.context_length), np.float32)
        return _batch(tokens, self.normalized(weights, count / len(tokens)), continues=place > 0)


class LaneEvaluationBatches(MicroBatches):
    """Batches that cover the whole stream once, in lanes whose state is carried from each batch to the next.

    Each token but the first of the stream is predicted once. Where a lane ends within a batch, weights are 0.

    Args:
        stream: the tokenized corpus.
        context_length: number of tokens of a row.
        batch_size: number of lanes, each of about the same length.
        limit: the most batches, from the beginning of the lanes; None for all.
        texts_alone: whether the first token of the stream is predicted, too, from an end mark, and end marks are not,
            as in `SlidingBatches`.

    Items are those of `LaneBatches`; the weights are 1 or 0.

    Raises:
        InputError: a setting is out of range, or the stream has nothing to predict.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        context_length: int,
        batch_size: int,
        limit: int | None = None,
        texts_alone: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size)
        check_positive(context_length=context_length, limit=1 if limit is None else limit)
        self._tokens, self._end = np.asarray(stream.tokens), stream.end_id
        self.context_length, self.texts_alone = context_length, texts_alone
        self._predicted = len(self._tokens) - (not texts_alone)
        if self._predicted < 1:
            raise InputError(f"a text of {counted(len(self._tokens), 'token')} has nothing to predict")
        self._lane = -(-self._predicted // batch_size)
        steps = -(-self._lane // context_length)
        self.set_steps(steps if limit is None else min(steps, limit))

    def batch(self, step: int) -> Batch:
        """Makes batch number `step`, counted from 0."""
        columns = step * self.context_length + np.arange(self.context_length + 1)
        places = np.arange(self.batch_size)[:, None] * self._lane + columns
        weights = (columns[:-1] < self._lane) & (places[:, :-1] < self._predicted)
        places = places - self.texts_alone
        tokens = self._tokens[np.clip(places, 0, len(self._tokens) - 1)].astype(np.int32)
        tokens[places < 0] = self._end
        if self.texts_alone:
            weights &= tokens[:, 1:] != self._end
        return _batch(tokens, weights.astype(np.float32), continues=step > 0)


def _batch(tokens: np.ndarray, weights: np.ndarray, *, continues: bool) -> Batch:
    """Returns inputs, labels and weights of rows with the token after each, (batch, length + 1)."""
    flags = np.full(len(tokens), continues, np.int32)
    inputs = {"token_ids": np.ascontiguousarray(tokens[:, :-1]), "continues": flags}
    return inputs, np.ascontiguousarray(tokens[:, 1:]), weights
