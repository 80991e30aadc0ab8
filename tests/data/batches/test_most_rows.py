"""The batch of all data, and the batch that takes the most memory."""

from types import SimpleNamespace

import numpy as np
import pytest

from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.batches.conversations import ConversationBatches
from kerasllm.data.batches.lanes import LaneBatches
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.batches.pairs import PairBatches
from kerasllm.data.batches.translation import TranslationBatches
from kerasllm.data.examples.conversations import EncodedConversation
from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.data.examples.pairs import EncodedGroups
from kerasllm.data.examples.parallel import EncodedPairs
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError

LENGTHS = np.random.default_rng(0).permutation([3] * 30 + [12] * 25 + [31] * 4 + [60] * 2)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
TEXTS = EncodedTexts(np.ones(OFFSETS[-1], np.int32), np.zeros(OFFSETS[-1], np.int8), OFFSETS, 64, 0, 0)
GROUPS = EncodedGroups(TEXTS, np.arange(60).reshape(30, 2), None)
STREAM = TokenStream(np.arange(203, dtype=np.uint16), np.zeros(1, np.int64), 204, 203)
TALKS = [EncodedConversation(np.ones(n, np.int32), np.arange(n) > 1) for n in (5, 9, 14, 8, 15)]
SPECIAL = SimpleNamespace(pad=0, unknown=1, cls=2, sep=3, mask=4)
STORE = SimpleNamespace(
    tokens=np.full(400, 7, np.uint16),
    sentence_starts=np.arange(0, 400, 10),
    sentence_ends=np.arange(10, 410, 10),
    document_offsets=np.arange(0, 44, 4),
    vocabulary_size=20,
)


def steps_of_a_pass(batches):
    for name in ("steps_per_epoch", "steps_per_pass"):
        if hasattr(batches, name):
            return getattr(batches, name)
    return -(-batches._windows_of_pass // batches.examples_per_step)


@pytest.mark.parametrize(
    "make",
    [
        lambda **given: ClassificationBatches(TEXTS, None, **given),
        lambda **given: PackedClassificationBatches(TEXTS, None, **given),
        lambda **given: PairBatches(GROUPS, **given),
        lambda **given: ConversationBatches(TALKS, context_length=16, **given),
        lambda **given: CausalBatches(STREAM, context_length=8, steps=5, seed=0, **given),
        lambda **given: LaneBatches(STREAM, context_length=8, steps=5, seed=0, **given),
        lambda **given: BertPretrainingBatches(
            STORE, special=SPECIAL, sequence_length=32, steps=5, seed=0, **given
        ),
    ],
)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_of_so_many_rows_a_pass_is_one_step(make, accumulation):
    most = make(batch_size=1, gradient_accumulation=accumulation).most_rows
    batches = make(batch_size=most, gradient_accumulation=accumulation)
    assert batches.most_rows == most > 1 and steps_of_a_pass(batches) == 1
    if not isinstance(batches, BertPretrainingBatches | LaneBatches):  # which leave an incomplete step out
        assert steps_of_a_pass(make(batch_size=most - 1, gradient_accumulation=accumulation)) == 2
    else:
        with pytest.raises(InputError):  # more is refused
            make(batch_size=most + 1, gradient_accumulation=accumulation)


def test_the_heaviest_of_padded_texts_is_the_longest():
    batches = ClassificationBatches(TEXTS, None, batch_size=4, gradient_accumulation=2)
    lengths = {batches[index][0]["token_ids"].shape for index in range(len(batches))}
    assert len(lengths) > 1
    inputs, labels, weights = batches.heaviest()
    assert inputs["token_ids"].shape == max(lengths) == (4, batches.buckets[-1])
    assert labels.shape == weights.shape == (4,)


def test_the_heaviest_of_pairs_has_the_most_places():
    offsets = OFFSETS.astype(np.int64)
    ids = np.ones(OFFSETS[-1], np.int32)
    batches = TranslationBatches(EncodedPairs(ids, offsets, ids, offsets, 0, {}, 0), batch_tokens=128)
    places = [rows * (source + target) for source, target, rows in batches.buckets]
    inputs, labels, _ = batches.heaviest()
    assert len(places) > 1 and inputs["encoder_token_ids"].size + labels.size == max(places)
    assert batches.most_rows == LENGTHS.sum()
