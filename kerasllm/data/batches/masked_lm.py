"""Batches for pretraining a BERT, with masked tokens and sentence pairs.

A step always has the same batch, on every backend, whatever the order in which micro-batches are read, and whether
the batch was made ahead of time or on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from kerasllm.data.batches.base import MicroBatches, PerEpoch
from kerasllm.data.batches.masking import MaskingMode, default_num_slots, mask_tokens
from kerasllm.data.batches.packing import PackedRows, Rows, pack
from kerasllm.data.batches.sentence_pairs import NextSentence, PairPlan, plan_pairs
from kerasllm.data.random_streams import MASKING, SHUFFLING, random_stream
from kerasllm.errors import InputError, counted

if TYPE_CHECKING:
    from kerasllm.data.token_cache.store import TokenStore
    from kerasllm.tokenizers.wordpiece import SpecialTokens

Objective = Literal["masked_lm", "next_sentence", "sentence_order"]
Arrays = dict[str, np.ndarray]
Batch = tuple[Arrays, Arrays, Arrays]

_PAIRS: dict[str, NextSentence] = {"next_sentence": "nsp", "sentence_order": "sop"}


class BertPretrainingBatches(MicroBatches):
    """Batches of `steps` optimizer steps for masked-language modeling and next-sentence prediction.

    Masks, too, are drawn for a whole step. The weights of each objective are normalized separately.

    An epoch has as many steps as the examples of epoch 0 fill, without an incomplete last one. Later epochs have
    about as many examples; an epoch that has fewer repeats those at its start. Each epoch cuts, pairs,
    shuffles and masks the corpus differently.

    With `packing`, a row holds as many examples as fit, each with its own [CLS] and next-sentence label, and without
    attention between them; `batch_size` and the numbers of examples then count rows. This saves the padding that
    short documents would otherwise need.

    While a step is used, one thread makes the next ones. It ends when they are made, so that no thread is left after
    `fit`, however `fit` ended.

    Args:
        store: the tokenized corpus.
        special: ids of the special tokens.
        sequence_length: number of tokens in a row, with special tokens.
        batch_size: number of examples, or of packed rows, in a micro-batch.
        steps: number of optimizer steps of the whole run; None for one epoch.
        seed: seed of all random numbers.
        start_step: the first step to return, counted from 0, for a resumed run.
        gradient_accumulation: number of micro-batches in a step.
        objectives: "masked_lm", or one of "next_sentence" and "sentence_order" (ALBERT's), or both kinds. Without
            one of these two, a row is a single segment. Labels of either are called "next_sentence", like the
            model's output.
        masking: "token", "whole_word" or "span"; see `mask_tokens`.
        masking_probability: share of the tokens that are predicted.
        num_slots: the most predictions in a row; the default is the number for the longest row, 19 for 128 tokens.
        continuation: boolean (vocabulary,), True for pieces that continue a word; for "whole_word" and "span".
        short_sequence_probability: probability that an example is deliberately shorter than the row.
        packing: whether several examples share a row.
        pad_last: whether, for evaluation, to cut `steps` to one epoch and to fill up its last batch with repeated
            examples of weight 0. This also allows a corpus that is smaller than a batch.
        normalize_weights: as for `MicroBatches`.
        prefetch: number of steps that are made ahead; 0 for none.

    An item is (inputs, labels, weights), dicts of arrays of static shapes: inputs `token_ids`, `segment_ids`
    (0 for [CLS] A [SEP] and padding, 1 for B [SEP]), `padding_mask` (1 for real tokens), all int32 (batch,
    length), and `masked_positions` int32 (batch, slots); labels and weights `masked_lm`, int32 and float32
    (batch, slots), and `next_sentence`, (batch,), where 1 says that B does not follow A. In packed batches
    `sequence_ids`, `position_ids` and `first_positions` take the place of the mask (see `data.batches.packing`),
    and `next_sentence` is (batch, examples of a row).

    Raises:
        InputError: a setting is out of range, or the corpus is too small or of the wrong form.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.2.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        special: SpecialTokens,
        sequence_length: int,
        batch_size: int,
        steps: int | None,
        seed: int,
        start_step: int = 0,
        gradient_accumulation: int = 1,
        objectives: Sequence[Objective] = ("masked_lm", "next_sentence"),
        masking: MaskingMode = "token",
        masking_probability: float = 0.15,
        num_slots: int | None = None,
        continuation: np.ndarray | None = None,
        short_sequence_probability: float = 0.1,
        packing: bool = False,
        pad_last: bool = False,
        normalize_weights: bool | None = None,
        prefetch: int = 8,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            normalize_weights=normalize_weights,
        )
        self.store, self.special, self.sequence_length = store, special, sequence_length
        self.seed, self.pad_last = seed, pad_last
        self.predicts_tokens, self.pairs = read_objectives(objectives)
        self.masking, self.masking_probability, self.continuation = masking, masking_probability, continuation
        self.short_sequence_probability = short_sequence_probability
        longest = sequence_length - (3 if self.pairs else 2)
        self.num_slots = default_num_slots(longest, masking_probability) if num_slots is None else num_slots
        self._tokens = np.asarray(store.tokens)  # a memory map's own indexing is slower
        self._plans = PerEpoch(self._make_plan)
        self.packing = packing
        self._most: int | None = None
        pairs, rows = self._plans[0]
        self._most = rows.most  # later epochs keep to it, so that shapes never change
        self.examples_per_epoch = len(pairs)
        self.mean_fill = float(pairs.sequence_lengths.sum() / (len(rows) * sequence_length))
        self.steps_per_epoch = self._count_steps(len(rows))
        steps = self.steps_per_epoch if steps is None else steps
        if pad_last:
            steps = min(steps, self.steps_per_epoch)
        self.set_steps(steps, start_step=start_step, prefetch=prefetch)
        self.batch(0)  # an invalid masking setting raises here, not in a thread during fit

    @property
    def most_rows(self) -> int:
        """The `batch_size` from which on an epoch is a single step."""
        return max(len(self._plans[0][1]) // self.gradient_accumulation, 1)

    def batch(self, step: int) -> Batch:
        """Makes all `batch_size * gradient_accumulation` examples of optimizer step `step`, counted from 0."""
        size = self.examples_per_step
        epoch, position = divmod(step, self.steps_per_epoch)
        plan, planned = self._plans[epoch]
        numbers = np.arange(position * size, (position + 1) * size)
        real = (numbers < len(planned)) if self.pad_last else np.ones(size, bool)
        examples, counts = planned.take(numbers % len(planned))
        tokens, inputs = assemble_rows(
            self._tokens, plan.starts[examples], plan.lengths[examples], self.sequence_length, self.special
        )
        packed = None
        if self.packing:
            taken = inputs.pop("padding_mask").astype(bool)
            packed = PackedRows(taken.sum(axis=1), counts, self.sequence_length, self._most or 1)
            flat = {name: array[taken] for name, array in (inputs | {"tokens": tokens}).items()}
            inputs = packed.inputs(flat, {"token_ids": self.special.pad})
            tokens = inputs.pop("tokens").astype(bool)
        labels: Arrays = {}
        weights: Arrays = {}
        if self.predicts_tokens:
            masked = mask_tokens(
                inputs["token_ids"],
                tokens,
                rng=random_stream(self.seed, MASKING, step),
                mask_id=self.special.mask,
                vocabulary_size=self.store.vocabulary_size,
                special_ids=_special_ids(self.special),
                num_slots=self.num_slots,
                probability=self.masking_probability,
                mode=self.masking,
                continuation=self.continuation,
            )
            inputs["token_ids"], inputs["masked_positions"] = masked.token_ids, masked.masked_positions
            labels["masked_lm"] = masked.labels
            weights["masked_lm"] = masked.weights * real[:, None].astype(np.float32)
        if self.pairs:
            kinds, judged = plan.labels[examples].astype(np.int32), np.repeat(real, counts)
            judged = judged.astype(np.float32)
            labels["next_sentence"] = packed.by_slot(kinds) if packed else kinds
            weights["next_sentence"] = packed.by_slot(judged) if packed else judged
        return inputs, labels, {name: self.normalized(weight) for name, weight in weights.items()}

    def _make_plan(self, epoch: int) -> tuple[PairPlan, Rows]:
        pairs = plan_pairs(
            self.store,
            sequence_length=self.sequence_length,
            seed=self.seed,
            epoch=epoch,
            short_sequence_probability=self.short_sequence_probability,
            next_sentence=self.pairs,
        )
        return pairs, self._rows(pairs, epoch)

    def _rows(self, pairs: PairPlan, epoch: int) -> Rows:
        """Returns the examples of each row, with the rows in random order."""
        if not self.packing:
            return Rows.alone(len(pairs))
        rows = pack(pairs.sequence_lengths, self.sequence_length, self._most)
        order = random_stream(self.seed, SHUFFLING, epoch).permutation(len(rows))
        return Rows.of([rows[number] for number in order])

    def _count_steps(self, num_rows: int) -> int:
        size = self.examples_per_step
        if self.pad_last:
            return -(-num_rows // size)
        if num_rows < size:
            num_tokens = int(np.sum(self.store.sentence_ends) - np.sum(self.store.sentence_starts))
            made = counted(num_rows, "row" if self.packing else "example")
            raise InputError(
                f"the corpus of {counted(num_tokens, 'token')} makes {made} of sequence_length "
                f"{self.sequence_length}, fewer than one step of {size:,} (batch_size {self.batch_size} x "
                f"gradient_accumulation {self.gradient_accumulation}): lower one of these, or give more text"
            )
        return num_rows // size


def assemble_rows(
    tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray, sequence_length: int, special: SpecialTokens
) -> tuple[np.ndarray, Arrays]:
    """Returns padded rows of `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` if the length of B is 0.

    Args:
        tokens: the flat token array of the store.
        starts: int64 (rows, 2), the positions in it where A and B begin.
        lengths: integers (rows, 2), the lengths of A and B, whose sum leaves room for the special tokens.
        sequence_length: number of tokens in a row.
        special: ids of the special tokens.

    Returns:
        A boolean (rows, length), True for tokens of A and B, and `token_ids`, `segment_ids`, `padding_mask`,
        each int32 (rows, length).
    """
    column = np.arange(sequence_length, dtype=np.int32)
    end_a = 1 + lengths[:, :1].astype(np.int32)  # (rows, 1), the column of the first [SEP]
    length_b = lengths[:, 1:].astype(np.int32)
    end = end_a + np.where(length_b > 0, length_b + 1, 0)  # the column of the last [SEP]
    in_row = column <= end
    in_second = in_row & (column > end_a)
    words = in_row & (column != end_a) & (column != end)
    words[:, 0] = False
    # A begins at the second column, and B after the first [SEP].
    offset = np.where(in_second, starts[:, 1:] - end_a - 1, starts[:, :1] - 1)
    token_ids = np.where(in_row, np.int32(special.sep), np.int32(special.pad))
    token_ids[:, 0] = special.cls
    token_ids[words] = tokens[(offset + column)[words]]
    return words, {
        "token_ids": token_ids,
        "segment_ids": in_second.astype(np.int32),
        "padding_mask": in_row.astype(np.int32),
    }


def read_objectives(objectives: Sequence[str]) -> tuple[bool, NextSentence]:
    """Returns whether masked tokens are predicted, and the kind of sentence pairs.

    Raises:
        InputError: an objective is unknown or occurs twice, or they cannot go together.
    """
    known = ["masked_lm", *_PAIRS]
    for objective in objectives:
        if objective not in known:
            raise InputError(f"objective {objective!r} is not one of {known}")
    pairs = [_PAIRS[objective] for objective in set(objectives) if objective in _PAIRS]
    if not objectives or len(pairs) > 1 or len(set(objectives)) < len(objectives):
        raise InputError(
            f"objectives are {list(objectives)}: give 'masked_lm', or one of {[*_PAIRS]}, or both, each once"
        )
    return "masked_lm" in objectives, pairs[0] if pairs else None


def _special_ids(special: SpecialTokens) -> list[int]:
    return [special.pad, special.unknown, special.cls, special.sep, special.mask]
