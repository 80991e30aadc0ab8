"""Batches for fine-tuning on texts, several of which are packed into a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kerasllm.data.batches.labelled import GRANULE, Batch, LabelledBatches
from kerasllm.data.batches.packing import PackedRows, pack
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.data.random_streams import SHUFFLING, random_stream

_SAMPLE = 64  # number of micro-batches from which the row length is chosen


class PackedClassificationBatches(LabelledBatches):
    """Packed batches of texts, each with a class or a number; an epoch has every text exactly once.

    All batches have one shape, so there is one compilation. Batches need about equally many rows, because texts are
    dealt to them like cards: the texts of an epoch, in random order, are stably sorted by length and cut into
    `batch_size` layers, and each batch gets a random text of every layer. (`ClassificationBatches` puts texts of
    similar lengths together instead.) Each micro-batch is packed separately, with the same loss and the same update
    as if each of its texts were alone in a row.

    Args:
        encoded: the texts.
        labels: as for `LabelledBatches`.
        settings: the other arguments of `LabelledBatches`.

    Attributes:
        row_length: number of columns, a multiple of 16 or `encoded.sequence_length`, chosen for these texts.
        rows_per_batch: number of rows in a micro-batch, as many as the largest of `epochs` needs. Epochs after these
            have the micro-batches of one of them, in a new order.
        slots: the most texts in a row.
        fill: share of an epoch's places that hold tokens.

    An item is (inputs, labels, weights): `token_ids`, `segment_ids`, `sequence_ids` and `position_ids`, int32
    (rows, row_length), and `first_positions` int32 (rows, slots), see `kerasllm.data.batches.packing`; labels int32 or
    float32 and weights float32, (rows, slots), 0 in empty slots.
    """

    def __init__(self, encoded: EncodedTexts, labels: np.ndarray | None, **settings: Any) -> None:
        super().__init__(encoded, labels, **settings)
        some = self._order_of_epoch(0).reshape(-1, self.batch_size)[:_SAMPLE]
        longest = int(self.lengths.max())
        lengths = [*range(-(-longest // GRANULE) * GRANULE, encoded.sequence_length, GRANULE)]
        lengths.append(max(encoded.sequence_length, longest))

        def cost(length: int) -> float:
            """Returns the cost of rows with a length; the cost of a token grows with the row, because of attention."""
            return max(len(rows) for rows in self._packed(some, length)) * length * (1 + length / 1024)

        self.row_length = min(lengths, key=cost)
        self.rows_per_batch = self.slots = self.shapes = 1
        for epoch in range(self.epochs):
            order = self._make_order(epoch).reshape(-1, self.batch_size)
            for rows in self._packed(order, self.row_length):
                self.rows_per_batch = max(self.rows_per_batch, len(rows))
                self.slots = max(self.slots, max(map(len, rows), default=0))
        places = self.steps_per_epoch * self.gradient_accumulation * self.rows_per_batch * self.row_length
        self.fill = float(self.lengths.sum() / places)

    def batch(self, step: int, extra_columns: int = 0) -> Batch:
        """Makes all texts of optimizer step `step`, packed; see `LabelledBatches.batch`."""
        encoded, texts = self.encoded, self._texts_of(step).reshape(-1, self.batch_size)
        chosen: list[int] = []
        counts: list[int] = []
        for part, rows in zip(texts, self._packed(texts, self.row_length), strict=True):
            part = part[part >= 0]
            chosen += [part[place] for row in rows for place in row]
            counts += [len(row) for row in rows] + [0] * (self.rows_per_batch - len(rows))
        packed = PackedRows(
            self.lengths[chosen], np.array(counts), self.row_length + extra_columns, self.slots
        )
        places = np.concatenate([np.arange(*encoded.offsets[text : text + 2]) for text in chosen])
        tokens = {"token_ids": encoded.token_ids[places], "segment_ids": encoded.segment_ids[places]}
        inputs = packed.inputs(tokens, {"token_ids": encoded.pad_id})
        labels, weights = self._targets(np.array(chosen), packed, places)
        return inputs, labels, self.normalized(weights)

    def _targets(
        self, texts: np.ndarray, packed: PackedRows, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of packed texts and their weights, each (rows, ...).

        Args:
            texts: int64 (texts,), the indices of the texts, row by row.
            packed: the layout of the texts in rows.
            places: int64 (tokens,), the positions of their tokens in `encoded.token_ids`.
        """
        return packed.by_slot(self.labels[texts]), packed.by_slot(np.ones(len(texts), np.float32))

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        order = super()._order_of_epoch(epoch % self.epochs)
        if epoch < self.epochs:
            return order
        return random_stream(self.seed, SHUFFLING, epoch).permutation(order)

    def _packed(self, parts: np.ndarray, row_length: int) -> Iterator[list[list[int]]]:
        """Yields the rows of each micro-batch, as lists of indices into its texts."""
        for part in parts:
            yield pack(self.lengths[part[part >= 0]], row_length)

    def _make_order(self, epoch: int) -> np.ndarray:
        rng = random_stream(self.seed, SHUFFLING, epoch)
        order = rng.permutation(len(self.encoded))
        order = order[np.argsort(self.lengths[order], kind="stable")]
        number = self.steps_per_epoch * self.gradient_accumulation  # number of micro-batches
        dealt = np.full((number, self.batch_size), -1, np.int64)
        for layer, start in enumerate(range(0, len(order), number)):
            texts = order[start : start + number]
            dealt[rng.permutation(number)[: len(texts)], layer] = texts
        return dealt.reshape(self.steps_per_epoch, -1)
