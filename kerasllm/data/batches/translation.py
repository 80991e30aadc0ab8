"""Batches of pairs of sequences, of about equally many tokens each.

Pairs of similar lengths are put together, in one of a few shapes (buckets), since each shape is compiled. A bucket has
as many rows as give `batch_tokens` places on its longer side. An epoch holds every pair once: a random permutation is
stably sorted by bucket and cut into batches, which are then shuffled.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from kerasllm.data.batches.base import MicroBatches, PerEpoch, check_positive
from kerasllm.data.examples.parallel import EncodedPairs
from kerasllm.data.random_streams import SHUFFLING, random_stream
from kerasllm.errors import InputError

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]

_GRANULE = 4
_MOST_BUCKETS = 8


class Bucket(NamedTuple):
    """A shape of batches.

    Args:
        source_length: tokens of a source, with padding.
        target_length: tokens of a target, with padding.
        rows: number of pairs.
    """

    source_length: int
    target_length: int
    rows: int


class TranslationBatches(MicroBatches):
    """Batches of source and target sequences.

    Args:
        encoded: the pairs.
        batch_tokens: places for tokens of a micro-batch on the longer side; a batch has no fewer than one row.
        steps: number of optimizer steps of the whole run; None means one epoch.
        seed: seed of the order.
        gradient_accumulation: number of micro-batches in a step.
        start_step: the first step to return, counted from 0, for a resumed run.
        shuffle: whether to shuffle; otherwise the pairs are sorted by bucket, and `order` gives their rows.
        normalize_weights: as for `MicroBatches`.

    Attributes:
        buckets: the shapes.
        batches_per_epoch: number of micro-batches in an epoch.

    An item is (inputs, labels, weights): a dict of `encoder_token_ids` and `encoder_padding_mask` (1 for real tokens),
    both int32 (rows, source_length), and `decoder_token_ids` int32 (rows, target_length), the labels shifted by one
    behind the padding token; labels int32 and weights float32 (rows, target_length), 0 for padding.
    """

    def __init__(
        self,
        encoded: EncodedPairs,
        *,
        batch_tokens: int,
        steps: int | None = None,
        seed: int = 0,
        gradient_accumulation: int = 1,
        start_step: int = 0,
        shuffle: bool = True,
        normalize_weights: bool | None = None,
    ) -> None:
        super().__init__(
            batch_size=1, gradient_accumulation=gradient_accumulation, normalize_weights=normalize_weights
        )
        check_positive(batch_tokens=batch_tokens)
        if len(encoded) == 0:
            raise InputError("there are no pairs to make batches of")
        self.encoded, self.batch_tokens, self.seed, self.shuffle = encoded, batch_tokens, seed, shuffle
        self.buckets, self._bucket_of = choose_buckets(
            encoded.source_lengths, encoded.target_lengths, batch_tokens
        )
        self.shapes = len(self.buckets)
        counts = np.bincount(self._bucket_of, minlength=len(self.buckets))
        self.batches_per_epoch = sum(
            -(-int(count) // bucket.rows) for count, bucket in zip(counts, self.buckets, strict=True)
        )
        self._orders = PerEpoch(self._make_order)
        self._in_epoch = False
        if steps is None:
            steps = -(-self.batches_per_epoch // gradient_accumulation)
        self.set_steps(steps, start_step=start_step)
        self._order_of(0)  # an invalid seed raises here

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps in an epoch, rounded up."""
        return -(-self.batches_per_epoch // self.gradient_accumulation)

    @property
    def most_rows(self) -> int:
        """The `batch_tokens` from which on an epoch is about a single step."""
        longer = np.maximum(self.encoded.source_lengths, self.encoded.target_lengths)
        return max(int(longer.sum()) // self.gradient_accumulation, 1)

    def heaviest(self) -> Batch:
        """Returns a micro-batch of the bucket with the most places; those of long rows take more, for attention."""

        def weight(number: int) -> float:
            bucket = self.pairs_of(number)[0]
            length = bucket.source_length + bucket.target_length
            return bucket.rows * length * (1 + length / 1024)

        return self._made(self.pairs_of(max(range(self.batches_per_epoch), key=weight)), (0, 0))

    def undivided(self, index: int) -> Batch:
        """Returns micro-batch `index`, counted from `start_step`, with all its rows."""
        step, part = divmod(index, self.gradient_accumulation)
        extra = (0, 0)
        if index == 1 and not self._in_epoch and self.shapes > 1 and keras.backend.backend() == "tensorflow":
            # Before an epoch, Keras compares the shapes of items 0 and 1 there, and treats an axis with equal sizes as
            # fixed, so that a later item with another length would be an error.
            first = self.start_step * self.gradient_accumulation
            one, other = (self.pairs_of(number)[0] for number in (first, first + 1))
            extra = (
                int(one.source_length == other.source_length),
                int(one.target_length == other.target_length),
            )
        return self.batch(self.start_step + step, extra)[part]

    def on_epoch_begin(self) -> None:
        """Records that an epoch runs."""
        self._in_epoch = True

    def on_epoch_end(self) -> None:
        """Records that no epoch runs."""
        self._in_epoch = False

    def batch(self, step: int, extra: tuple[int, int] = (0, 0)) -> list[Batch]:
        """Makes all micro-batches of optimizer step `step`, counted from 0.

        Args:
            step: the step, below `steps`.
            extra: numbers of columns of padding beyond the bucket's, of sources and of targets.
        """
        made = [
            self._made(self.pairs_of(step * self.gradient_accumulation + part), extra)
            for part in range(self.gradient_accumulation)
        ]
        if self.normalize_weights:
            total = max(sum(float(weights.sum()) for *_, weights in made), 1.0)
            factor = np.float32(self.gradient_accumulation / total)
            made = [(inputs, labels, weights * factor) for inputs, labels, weights in made]
        return made

    def pairs_of(self, number: int) -> tuple[Bucket, np.ndarray]:
        """Returns the bucket and the pairs of micro-batch `number`, counted from the beginning of the run."""
        epoch, place = divmod(number, self.batches_per_epoch)
        bucket, pairs = self._order_of(epoch)[place]
        return self.buckets[bucket], pairs

    def real_tokens(self, step: int) -> int:
        """Returns the number of source and target tokens of a step, without padding."""
        accumulated = range(step * self.gradient_accumulation, (step + 1) * self.gradient_accumulation)
        pairs = np.concatenate([self.pairs_of(number)[1] for number in accumulated])
        return int(self.encoded.source_lengths[pairs].sum() + self.encoded.target_lengths[pairs].sum())

    @property
    def fill(self) -> float:
        """The share of an epoch's places that hold tokens, on both sides."""
        places = sum(
            bucket.rows * (bucket.source_length + bucket.target_length)
            for bucket, _ in map(self.pairs_of, range(self.batches_per_epoch))
        )
        return float((len(self.encoded.source_ids) + len(self.encoded.target_ids)) / places)

    def _made(self, chosen: tuple[Bucket, np.ndarray], extra: tuple[int, int]) -> Batch:
        """Returns a micro-batch; rows beyond the pairs repeat the first pair, with weight 0."""
        bucket, pairs = chosen
        encoded = self.encoded
        rows = np.concatenate([pairs, np.full(bucket.rows - len(pairs), pairs[0])])
        real = np.arange(bucket.rows) < len(pairs)

        def padded(ids: np.ndarray, offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
            places = offsets[rows, None] + np.arange(length)
            mask = places < offsets[rows + 1, None]
            filled = np.full(mask.shape, encoded.pad_id, np.int32)
            filled[mask] = ids[places[mask]]
            return filled, mask

        source, source_mask = padded(
            encoded.source_ids, encoded.source_offsets, bucket.source_length + extra[0]
        )
        target, target_mask = padded(
            encoded.target_ids, encoded.target_offsets, bucket.target_length + extra[1]
        )
        begin = np.full((bucket.rows, 1), encoded.pad_id, np.int32)
        inputs = {
            "encoder_token_ids": source,
            "encoder_padding_mask": source_mask.astype(np.int32),
            "decoder_token_ids": np.concatenate([begin, target[:, :-1]], axis=1),
        }
        return inputs, target, (target_mask & real[:, None]).astype(np.float32)

    def _order_of(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        return self._orders[epoch if self.shuffle else 0]

    def _make_order(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """Returns the bucket and the pairs of each micro-batch of an epoch."""
        rng = random_stream(self.seed, SHUFFLING, epoch)
        count = len(self.encoded)
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        order = order[np.argsort(self._bucket_of[order], kind="stable")]
        bounds = np.searchsorted(self._bucket_of[order], np.arange(len(self.buckets) + 1))
        batches = [
            (number, order[at : min(at + bucket.rows, end)])
            for number, (bucket, start, end) in enumerate(zip(self.buckets, bounds, bounds[1:], strict=False))
            for at in range(start, end, bucket.rows)
        ]
        if not self.shuffle:
            return batches
        return [batches[place] for place in rng.permutation(len(batches))]


def choose_buckets(
    source_lengths: np.ndarray, target_lengths: np.ndarray, batch_tokens: int
) -> tuple[tuple[Bucket, ...], np.ndarray]:
    """Returns a few shapes, and which of them each pair has.

    Pairs are sorted by their longer side and divided where that saves the most padding.

    Args:
        source_lengths: int (pairs,).
        target_lengths: int (pairs,).
        batch_tokens: places of a batch on its longer side.

    Returns:
        The buckets, from short to long, and the bucket of each pair, int64 (pairs,).
    """
    longer = np.maximum(source_lengths, target_lengths)
    rounded = -(-longer // _GRANULE) * _GRANULE
    limits = np.unique(rounded)
    below = np.searchsorted(np.sort(rounded), limits, side="right")
    # costs[i]: places for all pairs up to limits[i] with a number of buckets, the last of which is limits[i].
    costs = below * limits
    plans: list[tuple[int, ...]] = [(int(limit),) for limit in limits]
    best, best_cost = plans[-1], costs[-1]
    for _ in range(_MOST_BUCKETS - 1):
        table = costs[:, None] + (below[None, :] - below[:, None]) * limits[None, :]
        table[np.tril_indices(len(limits))] = np.iinfo(np.int64).max
        if len(limits) < 2:
            break
        before = table.argmin(axis=0)
        plans = [(*plans[before[i]], int(limits[i])) if i else plans[0] for i in range(len(limits))]
        costs = np.minimum(costs, table[before, np.arange(len(limits))])
        if costs[-1] > 0.98 * best_cost:
            break
        best, best_cost = plans[-1], costs[-1]
    edges = np.array(sorted(set(best)))
    bucket_of = np.searchsorted(edges, rounded)
    buckets = []
    for number, edge in enumerate(edges):
        own = bucket_of == number

        def room(lengths: np.ndarray, own: np.ndarray = own) -> int:
            return int(-(-lengths[own].max() // _GRANULE) * _GRANULE)

        buckets.append(Bucket(room(source_lengths), room(target_lengths), max(batch_tokens // int(edge), 1)))
    return tuple(buckets), bucket_of
