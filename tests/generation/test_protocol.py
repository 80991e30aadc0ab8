"""Generation with a model of a test's own, which is no GPT and keeps a state in place of keys and values."""

import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.generation import generate

VOCABULARY, WIDTH = 6, 5


class Recurrent(keras.Model):
    """`state = tanh(state @ mix + table[token])`; the logits are `state @ table.T`."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(
            vocabulary_size=VOCABULARY, max_sequence_length=20, end_token_ids=(), end_token_id=None
        )
        draw = keras.initializers.RandomNormal(stddev=0.9, seed=3)
        self.table = self.add_weight(shape=(VOCABULARY, WIDTH), initializer=draw, name="table")
        self.mix = self.add_weight(shape=(WIDTH, WIDTH), initializer=draw, name="mix")
        self.built = True

    def next_state(self, state, token_ids):
        return ops.tanh(ops.matmul(state, self.mix) + ops.take(self.table, token_ids, axis=0))

    def logits(self, state):
        return ops.matmul(state, ops.transpose(self.table))

    def prefill(self, token_ids, starts, capacity):
        rows, width = token_ids.shape
        state = ops.zeros((rows, WIDTH))
        for column in range(width):
            is_token = (column >= starts)[:, None]
            state = ops.where(is_token, self.next_state(state, token_ids[:, column]), state)
        return self.logits(state), {"state": state}

    def step(self, token_ids, column, starts, caches):
        state = self.next_state(caches["state"], token_ids)
        return self.logits(state), {"state": state}

    def reorder(self, caches, rows):
        return {"state": ops.take(caches["state"], rows, axis=0)}


@pytest.fixture(scope="module")
def model():
    return Recurrent()


def plain_logits(model, ids):
    """The logits after `ids`, float64 by NumPy."""
    table, mix = (ops.convert_to_numpy(each).astype("float64") for each in (model.table, model.mix))
    state = np.zeros(WIDTH)
    for token in ids:
        state = np.tanh(state @ mix + table[token])
    return table @ state


def test_a_state_is_a_cache(model):
    prompts, expected = [[1, 2, 3], [4], [0, 5]], []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(7):
            ids.append(int(plain_logits(model, ids).argmax()))
        expected.append(ids)
    assert generate(model, prompts, max_new_tokens=7) == expected


def test_beams_carry_their_states_along(model):
    """As wide as the vocabulary's square, they find the likeliest of all texts of three tokens."""
    scores = {}
    for text in itertools.product(range(VOCABULARY), repeat=3):
        total, ids = 0.0, [2, 1]
        for token in text:
            logits = plain_logits(model, ids)
            total += logits[token] - np.log(np.exp(logits).sum())
            ids.append(token)
        scores[text] = total
    best = max(scores, key=scores.__getitem__)
    assert generate(model, [2, 1], max_new_tokens=3, num_beams=36).tolist() == [2, 1, *best]


def test_draws_are_those_of_each_prompt(model):
    settings = {"max_new_tokens": 6, "temperature": 1.3, "seed": 4}
    alone = generate(model, [3, 4], **settings).tolist()
    assert generate(model, [[3, 4], [1, 1, 1, 1]], **settings)[0] == alone
