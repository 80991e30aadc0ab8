"""Arithmetic against counts by hand; the peak against what is possible at all."""

import time

import keras
import numpy as np
import pytest

from kerasllm import BertClassifier, BertConfig, BertMaskedLM, BertPretraining, GPTCausalLM, GPTConfig
from kerasllm.training.hardware import throughput

LENGTH = 16


@pytest.fixture(scope="module")
def bert():
    return BertConfig(num_layers=3, num_heads=2, hidden_dim=8, vocabulary_size=50, max_sequence_length=LENGTH)


# A block: query, key, value and output 4 * 8 * 8, feed-forward 2 * 8 * 32, which is 12 * 8 * 8.
BLOCKS = 6 * 3 * (12 * 8 * 8) + 12 * 3 * 8 * LENGTH


def bert_blocks(read):
    """The last one makes keys and values of all, and the rest of what is read."""
    return (
        BLOCKS
        - 6 * (12 * 8 * 8)
        - 12 * 8 * LENGTH
        + 6 * 2 * 8 * 8
        + (6 * 10 * 8 * 8 / LENGTH + 12 * 8) * read
    )


def test_bert_scores_the_masked_slots_alone(bert):
    vocabulary = 6 * (8 * 50 + 8 * 8)  # the tied projection, and the head's own layer before it
    pairs = 6 * (8 * 8 + 8 * 2)  # pooler and next-sentence head, once a row
    flops = BertPretraining(bert).training_flops(LENGTH, 4)
    assert flops == bert_blocks(4 + 1) + (4 * vocabulary + pairs) / LENGTH
    assert BertMaskedLM(bert).training_flops(LENGTH) == BLOCKS + vocabulary


def test_a_classifier_scores_a_row_once(bert):
    flops = BertClassifier(bert, num_classes=5).training_flops(LENGTH)
    assert flops == bert_blocks(1) + 6 * (8 * 8 + 8 * 5) / LENGTH


def gpt(**changes):
    return GPTConfig(
        num_layers=3, num_heads=2, hidden_dim=8, vocabulary_size=50, max_sequence_length=LENGTH, **changes
    )


def test_gpt_scores_every_token_tied_or_not():
    for changes in ({}, {"tie_embeddings": False}):
        flops = GPTCausalLM(gpt(**changes)).training_flops(LENGTH)
        assert flops == BLOCKS + 6 * 8 * 50


def test_frozen_weights_have_no_gradient():
    flops = GPTCausalLM(gpt(), lora_rank=2).training_flops(LENGTH)
    adapters = 2 * (8 + 24) + 2 * (8 + 8) + 2 * (8 + 32) + 2 * (32 + 8)
    expected = 3 * (4 * 12 * 8 * 8 + 6 * adapters) + 12 * 3 * 8 * LENGTH + 4 * 8 * 50
    assert flops == expected


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_peak_is_found_soon_and_is_no_less_than_a_plain_product(precision):
    throughput.matrix_product_peak.cache_clear()
    began = time.process_time()
    peak = throughput.matrix_product_peak(precision)
    assert time.process_time() - began < 8  # of all cores together; a second on the clock of an idle machine
    left = keras.ops.cast(np.ones((256, 256), "float32"), keras.dtype_policies.get(precision).compute_dtype)
    began = time.perf_counter()
    keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.matmul(left, left), "float32"))
    # A small product, cold and alone, reaches a part of the peak; NumPy, say, or a wrong unit would not.
    assert 0.1 * 2 * 256**3 / (time.perf_counter() - began) < peak < 1e16


@pytest.fixture
def machine(monkeypatch):
    """A machine whose peaks are measured one after the other, and its clock, which a test puts forward."""

    def prepare(*peaks):
        measured, clock = iter(peaks), [0.0]

        def measure(precision):
            assert precision == "float32"
            peak = next(measured)
            if isinstance(peak, Exception):
                raise peak
            return peak

        monkeypatch.setattr(throughput, "measure_peak", measure)
        monkeypatch.setattr(throughput.time, "monotonic", lambda: clock[0])
        throughput.matrix_product_peak.cache_clear()
        return clock

    yield prepare
    throughput.matrix_product_peak.cache_clear()


def shares(clock, flops):
    """What is shown every ten seconds."""
    utilization, found = throughput.Utilization("float32", 1.0), []
    for value in flops:
        clock[0] += 10.0
        found.append(utilization.share(value))
    return found


def test_a_share_is_given_once_two_peaks_agree(machine):
    assert shares(machine(100.0, 110.0), [55.0, 22.0]) == [0.5, 0.2]
    # Measured on a busy machine twice, and then a third and fourth time on a quiet one.
    assert shares(machine(40.0, 100.0, 120.0, 125.0), [60.0] * 3) == [None, 0.5, 0.5]


def test_a_share_never_exceeds_one(machine):
    """A training faster than both peaks has them measured again; without a higher one there is no share."""
    assert shares(machine(50.0, 50.0, 200.0, 190.0), [90.0, 90.0, 90.0]) == [None, None, 0.45]
    assert shares(machine(*[50.0] * 5), [90.0] * 9 + [25.0]) == [None] * 9 + [0.5]
    full = RuntimeError("out of memory")
    assert shares(machine(50.0, *[full] * 4), [25.0] * 9) == [None] * 9


def test_a_short_run_measures_once(machine):
    clock = machine(100.0)
    utilization = throughput.Utilization("float32", 1.0)
    clock[0] += 4.0
    assert utilization.share(50.0) is None


def test_utilization_of_a_model(bert, machine):
    clock = machine(1e9, 1e9)
    inputs = {"token_ids": np.zeros((2, LENGTH)), "masked_positions": np.zeros((2, 4))}
    model = BertPretraining(bert)
    utilization = throughput.Utilization.of(model, inputs)
    clock[0] += 10.0
    assert utilization.share(1000.0) == 1000 * model.training_flops(LENGTH, 4) / 1e9
