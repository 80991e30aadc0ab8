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


def test_peak_in_tokens(bert, monkeypatch):
    monkeypatch.setattr(throughput, "matrix_product_peak", lambda precision: {"float32": 1e9}[precision])
    inputs = {"token_ids": np.zeros((2, LENGTH)), "masked_positions": np.zeros((2, 4))}
    model = BertPretraining(bert)
    flops = model.training_flops(LENGTH, 4)
    assert throughput.peak_tokens_per_second(model, inputs) == 1e9 / flops
