"""Batches for fine-tuning on texts, padded to one of a few lengths.

Most texts are far shorter than the longest, so padding all to one length multiplies the work. But each length needs
a compilation on JAX and TensorFlow. So there are a few lengths (buckets), chosen for the data. An epoch is a random
permutation of the examples, stably sorted by the bucket that they need and cut into batches, which are then shuffled.
Within a bucket, the examples of a batch are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from kerasllm.data.batches.labelled import GRANULE, Batch, LabelledBatches
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.data.random_streams import SHUFFLING, random_stream
from kerasllm.errors import InputError

_MOST_LENGTHS = 4
_WORTHWHILE = 0.95  # another length must save a twentieth of the work to be worth a compilation


class ClassificationBatches(LabelledBatches):
    """Padded batches of texts, one text per row, each with a class or a number.

    Args:
        encoded: the texts.
        labels: as for `LabelledBatches`.
        shuffle: whether to shuffle the texts; otherwise they are only sorted by bucket, and `order` gives their rows.
        buckets: the lengths to pad to; "auto" chooses up to four for these texts, and None pads all texts to
            `encoded.sequence_length`.
        keep_order: whether texts that are not shuffled keep their own order, instead of being sorted by bucket.
        fill: whether the last batch of an epoch is filled up with rows of weight 0. Otherwise it is shorter, and
            padded to the longest bucket, so that there is one more shape at most; not with accumulation.
        settings: the other arguments of `LabelledBatches`.

    An item is (inputs, labels, weights): a dict of `token_ids`, `segment_ids` and `padding_mask` (1 for real
    tokens), int32 (batch, length), with one of the lengths in `buckets`; int32 or float32 (batch,); float32
    (batch,).
    """

    def __init__(
        self,
        encoded: EncodedTexts,
        labels: np.ndarray | None,
        *,
        shuffle: bool = True,
        buckets: Sequence[int] | Literal["auto"] | None = "auto",
        keep_order: bool = False,
        fill: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(encoded, labels, **settings)
        self.shuffle, self.keep_order, self.fill = shuffle, keep_order, fill
        if not fill and self.gradient_accumulation > 1:
            raise ValueError("batches for gradient accumulation are filled up")
        if buckets is None:
            self.buckets: tuple[int, ...] = (encoded.sequence_length,)
        elif isinstance(buckets, str):
            self.buckets = choose_buckets(self.lengths, encoded.sequence_length)
        else:
            self.buckets = tuple(sorted(buckets))
        if not self.buckets or self.buckets[-1] < self.lengths.max():
            raise InputError(f"buckets {self.buckets}: the longest text has {self.lengths.max()} tokens")
        self.shapes = len(self.buckets) + (not fill)
        self._bucket_of = np.searchsorted(self.buckets, self.lengths)
        self._in_epoch = False
        self._order_of_epoch(0)  # an invalid seed raises here

    def batch(self, step: int, extra_columns: int = 0) -> Batch:
        """Makes all texts of optimizer step `step`, padded; see `LabelledBatches.batch`."""
        encoded, chosen = self.encoded, self._texts_of(step)  # (rows,), -1 for an empty row
        real, length = chosen >= 0, self._length(chosen) + extra_columns
        if not self.fill:
            chosen, real = chosen[real], real[real]
        chosen = np.where(real, chosen, chosen[0])  # a row of padding would have no token to attend to
        places = encoded.offsets[chosen, None] + np.arange(length)
        mask = places < encoded.offsets[chosen + 1, None]  # (rows, length)
        places = places[mask]
        token_ids = np.full(mask.shape, encoded.pad_id, np.int32)
        segment_ids = np.zeros(mask.shape, np.int32)
        token_ids[mask], segment_ids[mask] = encoded.token_ids[places], encoded.segment_ids[places]
        inputs = {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": mask.astype(np.int32)}
        labels, weights = self._targets(chosen, mask, places)
        real = real.reshape(-1, *[1] * (weights.ndim - 1))
        return inputs, labels, self.normalized(np.where(real, weights, 0.0).astype(np.float32))

    def heaviest(self) -> Batch:
        """Returns a micro-batch of the greatest length that there is."""
        steps = self._order_of_epoch(0)
        batch = self.batch(int(np.argmax([self._length(texts) for texts in steps])))
        return keras.tree.map_structure(lambda array: array[: self.rows_per_batch], batch)

    def _targets(
        self, texts: np.ndarray, mask: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of some texts and their weights, each (texts, ...).

        Args:
            texts: int64 (texts,), the indices of the texts.
            mask: bool (texts, length), True for their tokens.
            places: int64 (tokens,), the positions of these tokens in `encoded.token_ids`.
        """
        return self.labels[texts], np.ones(len(texts), np.float32)

    @property
    def order(self) -> np.ndarray:
        """The index of the text in each row of the first epoch, int64 (micro-batches, batch_size), -1 for none."""
        return self._order_of_epoch(0).reshape(-1, self.batch_size)

    def on_epoch_begin(self) -> None:
        """Records that an epoch runs; see `_extent_to_show`."""
        self._in_epoch = True

    def on_epoch_end(self) -> None:
        """Records that no epoch runs; see `_extent_to_show`."""
        self._in_epoch = False

    def _extent_to_show(self, step: int, index: int) -> tuple[int, int]:
        """Returns columns to add and rows to leave out in item 1, outside of an epoch on TensorFlow, else 0 and 0.

        Before an epoch, Keras compares the shapes of items 0 and 1 there, and treats an axis with equal sizes as
        fixed, so that a later item with another length or number of rows would be an error.
        """
        if index != 1 or self._in_epoch or keras.backend.backend() != "tensorflow":
            return 0, 0
        first, second = self._texts_of(step - 1 // self.gradient_accumulation), self._texts_of(step)
        varies = not self.fill and len(self.encoded) % self.examples_per_step > 0
        columns = len(self.buckets) > 1 and self._length(first) == self._length(second)
        return int(columns), int(varies and (first >= 0).sum() == (second >= 0).sum())

    def _length(self, texts: np.ndarray) -> int:
        if not self.fill and (texts < 0).any():
            return self.buckets[-1]
        return self.buckets[self._bucket_of[texts[texts >= 0]].max()]

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return super()._order_of_epoch(epoch if self.shuffle else 0)

    def _make_order(self, epoch: int) -> np.ndarray:
        count, size = len(self.encoded), self.examples_per_step
        order = np.arange(count)
        sizes = np.full(self.steps_per_epoch, size)
        sizes[-1] = count - size * (self.steps_per_epoch - 1)
        rng = random_stream(self.seed, SHUFFLING, epoch)
        if self.shuffle:
            order = rng.permutation(count)
            sizes = rng.permutation(sizes)  # otherwise the small batch would always have the longest texts
        if self.shuffle or not self.keep_order:
            order = order[np.argsort(self._bucket_of[order], kind="stable")]
        rows = np.full((self.steps_per_epoch, size), -1, np.int64)
        rows[np.arange(size) < sizes[:, None]] = order
        return rng.permutation(rows) if self.shuffle else rows


def choose_buckets(lengths: np.ndarray, sequence_length: int) -> tuple[int, ...]:
    """Returns a few lengths to pad texts to, chosen so that little padding is needed.

    Args:
        lengths: the number of tokens in each text.
        sequence_length: the largest length.

    Returns:
        At most four lengths, ascending, which are multiples of 16 except for `sequence_length` itself.
    """
    longest = int(lengths.max())
    limits = np.minimum(np.arange(GRANULE, longest + GRANULE, GRANULE), max(sequence_length, longest))
    below = np.searchsorted(np.sort(lengths), limits, side="right")  # texts that fit each limit
    # costs[i]: number of places for all texts that fit limits[i], with plans[i] as buckets, the last of which is i.
    costs = below * limits
    plans: list[tuple[int, ...]] = [(i,) for i in range(len(limits))]
    best, best_cost = plans[-1], costs[-1]
    for _ in range(_MOST_LENGTHS - 1):
        table = costs[:, None] + (below[None, :] - below[:, None]) * limits[None, :]  # (before, last)
        table[np.tril_indices(len(limits))] = np.iinfo(table.dtype).max
        before = table.argmin(axis=0)
        plans = [(*plans[before[i]], i) if i else (0,) for i in range(len(limits))]
        costs = np.minimum(costs, table[before, np.arange(len(limits))])
        if costs[-1] > _WORTHWHILE * best_cost:
            break
        best, best_cost = plans[-1], costs[-1]
    return tuple(int(limits[i]) for i in best)
