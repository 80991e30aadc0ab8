"""Orders without an array: each number once, as random as a drawn order, any size."""

import numpy as np
import pytest

from kerasllm.data.batches import causal_lm
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.keyed_permutation import KeyedPermutation
from kerasllm.data.token_cache.stream import TokenStream


def order_of(count, seed=0):
    return KeyedPermutation(count, np.random.default_rng(seed))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097, 70_000])
def test_each_number_stands_once(count):
    order = order_of(count)
    assert len(order) == count
    assert sorted(order[:].tolist()) == list(range(count))
    np.testing.assert_array_equal(np.concatenate([order[: count // 3], order[count // 3 :]]), order[:])


def test_places_and_neighbors_are_independent():
    """Over many keys each number stands at each place as often as another, also behind each other (chi-squared)."""
    count, keys = 12, 6000
    orders = np.stack([order_of(count, seed)[:] for seed in range(keys)])
    for pairs in ((orders[:, 0], orders[:, 1]), (orders[:, 4], orders[:, 11])):
        seen = np.zeros((count, count))
        np.add.at(seen, pairs, 1)
        assert not seen.diagonal().any()
        expected = keys / (count * (count - 1))
        off = seen[~np.eye(count, dtype=bool)]
        chi = ((off - expected) ** 2 / expected).sum()
        freedom = count * (count - 1) - 1
        assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_ten_billion_need_no_memory():
    """A part of an order of 10^10, far apart: different numbers below it, spread evenly."""
    order = order_of(10**10)
    found = np.concatenate([order[start : start + 5000] for start in (0, 5 * 10**9, 10**10 - 5000)])
    assert len(np.unique(found)) == len(found) and found.min() >= 0 and found.max() < 10**10
    shares = np.histogram(found, bins=10, range=(0, 10**10))[0] / len(found)
    np.testing.assert_allclose(shares, 0.1, atol=0.02)


def test_a_pass_with_it_takes_every_window_once(monkeypatch):
    tokens = np.arange(1, 402, dtype=np.uint16)
    stream = TokenStream(tokens, np.zeros(1, np.int64), 500, 0)
    monkeypatch.setattr(causal_lm, "_MOST_IN_MEMORY", 8)
    settings = {"context_length": 4, "batch_size": 11, "steps": 18, "prefetch": 0}
    batches = CausalBatches(stream, seed=1, **settings)
    firsts = [batches.batch(step)[0]["token_ids"][:, 0] for step in range(18)]
    for number in range(2):
        of_pass = np.concatenate(firsts[9 * number : 9 * number + 9])
        assert len(np.unique((of_pass - of_pass.min()) // 4)) == 99
    other = CausalBatches(stream, seed=2, **settings).batch(0)[0]["token_ids"][:, 0]
    assert (other != firsts[0]).any()
