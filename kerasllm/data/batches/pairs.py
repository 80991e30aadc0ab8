"""Packed batches of texts that belong together, such as pairs, whose other texts serve as negatives.

A batch avoids pairs that share a text, as far as the data allow it. The texts of a micro-batch are packed into rows of
one shape, short questions beside long paragraphs, so little padding is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kerasllm.data.batches.base import MicroBatches, PerEpoch, check_positive
from kerasllm.data.batches.labelled import GRANULE, Batch
from kerasllm.data.batches.packing import PackedRows, pack
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.batches.share import Share
from kerasllm.data.examples.pairs import EncodedGroups
from kerasllm.data.random_streams import SHUFFLING, random_stream
from kerasllm.errors import InputError

_SAMPLE = 64  # number of micro-batches from which the row length is chosen
_MOST_TEXTS = 64  # in a batch of held-out texts
_TRIALS = 64  # number of batches that are tried for a pair before it may share a text with another one


class PairBatches(MicroBatches):
    """Packed batches of pairs, triplets or graded pairs; an epoch has each of them exactly once.

    The groups of an epoch, in random order, are stably sorted by length and dealt to the batches like cards, as in
    `PackedClassificationBatches`, so that batches need about equally many rows.

    Args:
        encoded: the groups of texts.
        batch_size: number of groups in a micro-batch.
        seed: seed of the order.
        epochs: number of passes over all groups.
        gradient_accumulation: number of micro-batches in a step; texts are compared within a micro-batch only.
        start_step: the first step to return, counted from 0, for a resumed run.
        targets: float32 (texts, width), the vector of each text that a teacher gives, for distillation, or None.
        parts: a number by which the number of rows is divisible, see `BertEncoder.training_parts`.

    Attributes:
        row_length: number of columns.
        rows_per_batch: number of rows in a micro-batch, as many as the largest of the run needs.
        slots: the most texts in a row.

    An item is (inputs, labels, weights): the inputs as in `PackedClassificationBatches`; labels float32
    (rows, slots, 4) as `kerasllm.embedding_losses` takes them, or (rows, slots, width) with `targets`; weights float32
    (rows, slots), 1 for the anchors, or, with `targets`, for all texts, and 0 elsewhere.

    Raises:
        InputError: a setting is out of range, or there is nothing to compare with.
    """

    def __init__(
        self,
        encoded: EncodedGroups,
        *,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        gradient_accumulation: int = 1,
        start_step: int = 0,
        targets: np.ndarray | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__(batch_size=batch_size, gradient_accumulation=gradient_accumulation)
        check_positive(epochs=epochs, parts=parts)
        if len(encoded) == 0:
            raise InputError("there are no pairs to make batches of")
        self.encoded, self.seed, self.epochs, self.targets = encoded, seed, epochs, targets
        self.steps_per_epoch = -(-len(encoded) // self.examples_per_step)
        self._orders = PerEpoch(self._make_order)
        orders = [self._make_order(epoch).reshape(-1, batch_size) for epoch in range(epochs)]
        longest = int(encoded.texts.lengths.max())
        most = max(encoded.texts.sequence_length, longest)
        lengths = [*range(-(-longest // GRANULE) * GRANULE, most, GRANULE), most]

        def cost(length: int) -> float:
            """Returns the cost of rows with a length; the cost of a token grows with the row, because of attention."""
            rows = max(len(self._pack(part, length)[1]) for part in orders[0][:_SAMPLE])
            return rows * length * (1 + length / 1024)

        self.row_length = min(lengths, key=cost)
        packed = [self._pack(part, self.row_length)[1] for order in orders for part in order]
        self.rows_per_batch = -(-max(map(len, packed)) // parts) * parts
        self.slots = max(len(row) for rows in packed for row in rows)
        self.set_steps(epochs * self.steps_per_epoch, start_step=start_step)
        self._last: tuple[int, Batch] | None = None

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on an epoch is a single step."""
        return -(-len(self.encoded) // self.gradient_accumulation)

    def set_share(self, share: Share) -> None:
        """Chooses the rows of each micro-batch that are returned; rows without texts make them divisible."""
        self.rows_per_batch += -self.rows_per_batch % share.multiple
        self._last = None
        super().set_share(share)

    def whole(self, step: int, index: int) -> Batch:
        """Returns all micro-batches of a step, and keeps them for the next calls."""
        known = self._last
        if known is None or known[0] != step:
            known = self._last = step, self.batch(step)
        return known[1]

    def batch(self, step: int) -> Batch:
        """Makes all micro-batches of optimizer step `step`, counted from 0."""
        texts: list[int] = []
        labels: list[np.ndarray] = []
        counts: list[int] = []
        for part in self._groups_of(step).reshape(-1, self.batch_size):
            members, rows = self._pack(part, self.row_length)
            order = np.array([place for row in rows for place in row], np.int64)
            texts += members.reshape(-1)[order].tolist()
            labels.append(group_labels(self.encoded, part[part >= 0]).reshape(-1, 4)[order])
            counts += [len(row) for row in rows] + [0] * (self.rows_per_batch - len(rows))
        chosen, found = np.array(texts), np.concatenate(labels)
        encoded = self.encoded.texts
        packed = PackedRows(encoded.lengths[chosen], np.array(counts), self.row_length, self.slots)
        places = np.concatenate([np.arange(*encoded.offsets[text : text + 2]) for text in texts])
        tokens = {"token_ids": encoded.token_ids[places], "segment_ids": encoded.segment_ids[places]}
        inputs = packed.inputs(tokens, {"token_ids": encoded.pad_id})
        real = packed.by_slot(np.ones(len(chosen), np.float32))
        if self.targets is not None:
            return inputs, packed.by_slot(self.targets[chosen]), self.normalized(real)
        values = packed.by_slot(found)
        values[real == 0, 1] = -1
        anchors = packed.by_slot((found[:, 1] == 0).astype(np.float32))
        return inputs, values, self.normalized(anchors)

    def real_tokens(self, step: int) -> int:
        """Returns the number of tokens in the texts of a step, without padding."""
        groups = self._groups_of(step)
        return int(self.encoded.lengths[groups[groups >= 0]].sum())

    def _groups_of(self, step: int) -> np.ndarray:
        """Returns the groups of a step, int64 (groups,), -1 for none."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._orders[epoch][position]

    def _pack(self, part: np.ndarray, row_length: int) -> tuple[np.ndarray, list[list[int]]]:
        """Returns the members of the groups of a micro-batch, and the rows as indices into them, flattened."""
        members = self.encoded.members[part[part >= 0]]
        return members, pack(self.encoded.texts.lengths[members.reshape(-1)], row_length)

    def _make_order(self, epoch: int) -> np.ndarray:
        """Returns the groups of each step of an epoch, int64 (steps, groups), -1 for none."""
        rng = random_stream(self.seed, SHUFFLING, epoch)
        order = rng.permutation(len(self.encoded))
        order = order[np.argsort(self.encoded.lengths[order], kind="stable")]
        number = self.steps_per_epoch * self.gradient_accumulation  # number of micro-batches
        dealt = np.full((number, self.batch_size), -1, np.int64)
        texts_in: list[set[int]] = [set() for _ in range(number)]
        for layer, start in enumerate(range(0, len(order), number)):
            free = rng.permutation(number).tolist()
            for group in order[start : start + number]:
                texts = set(self.encoded.members[group].tolist())
                clashes = (bool(texts & texts_in[batch]) for batch in free[-_TRIALS:][::-1])
                place = next((index for index, clash in enumerate(clashes) if not clash), 0)
                batch = free.pop(len(free) - 1 - place)
                dealt[batch, layer] = group
                texts_in[batch] |= texts
        return dealt.reshape(self.steps_per_epoch, -1)


class HeldOutGroups(ClassificationBatches):
    """Padded batches of the distinct texts of groups, each of which is encoded once for all comparisons.

    Args:
        groups: the groups.
        batch_size: number of groups that are compared with one another for the loss; a batch has so many texts, too,
            but at most 64.
    """

    def __init__(self, groups: EncodedGroups, *, batch_size: int) -> None:
        super().__init__(groups.texts, None, batch_size=min(batch_size, _MOST_TEXTS), shuffle=False)
        self.groups, self.compared_groups = groups, batch_size

    def compared(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, for each batch of groups, the indices of its texts (texts,) and their labels (texts, 4)."""
        order = random_stream(0, SHUFFLING, 0).permutation(len(self.groups))
        for start in range(0, len(order), self.compared_groups):
            chosen = order[start : start + self.compared_groups]
            members = self.groups.members[chosen]
            yield members.reshape(-1), group_labels(self.groups, chosen).reshape(-1, 4)


def group_labels(encoded: EncodedGroups, groups: np.ndarray) -> np.ndarray:
    """Returns the labels of the texts of some groups, float32 (groups, width, 4), as the losses take them."""
    members = encoded.members[groups]
    labels = np.zeros((*members.shape, 4), np.float32)
    labels[..., 0] = np.arange(len(members))[:, None]
    labels[..., 1] = np.minimum(np.arange(members.shape[1]), 2)
    labels[..., 2] = np.unique(members, return_inverse=True)[1].reshape(members.shape)  # small, so exact
    if encoded.scores is not None:
        labels[..., 3] = encoded.scores[groups][:, None]
    return labels
