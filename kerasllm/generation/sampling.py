"""Which token comes next: penalties, cuts and draws, the same on every backend.

Cuts (top-k, top-p) keep what lies above a threshold that is found by halving an interval: no sorting of the
vocabulary, which costs XLA on a CPU as much as the whole model, and no `k` in the compiled program.

A draw is the argmax of scores plus Gumbel noise (Gumbel 1954; "Gumbel-max"), and the noise of a token is a hash
of (seed, row, step, token). So one seed gives one text on all backends, however prompts are batched or padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops

from kerasllm import backend
from kerasllm.backend.hashing import GOLDEN, mix, shift_right

_LOWEST = -3e38  # what a removed token scores; finite, as the difference of two infinities is undefined
_HALVINGS = 32


@dataclass(frozen=True)
class Rule:
    """What is done to the scores, in this order; the strengths come separately, as they need no new program.

    Args:
        penalize: tokens that occurred score lower (Keskar et al. 2019, https://arxiv.org/abs/1909.05858).
        sample: the token is drawn, not the likeliest one taken.
        top_k: only the k likeliest are drawn from (Fan et al. 2018, https://arxiv.org/abs/1805.04833).
        top_p: only the likeliest that together have probability p (Holtzman et al. 2019,
            https://arxiv.org/abs/1904.09751).
        min_p: only those that have at least min_p times the probability of the likeliest (Nguyen et al. 2024,
            https://arxiv.org/abs/2407.01082).
    """

    penalize: bool = False
    sample: bool = False
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False

    def choose(self, logits, strengths: dict[str, Any], seen, rows, step):
        """The next token of each row, int32 (rows,).

        Args:
            logits: (rows, vocabulary).
            strengths: scalars `repetition_penalty`, `temperature`, `top_k`, `top_p`, `min_p` and int `seed`.
            seen: boolean (rows, vocabulary), which tokens occurred; used with `penalize`.
            rows: int (rows,), the numbers of the rows.
            step: int scalar, 0 for the first new token.
        """
        logits = ops.cast(logits, "float32")
        if self.penalize:
            logits = penalize(logits, seen, strengths["repetition_penalty"])
        if self.sample:
            logits = logits / strengths["temperature"]
            if self.top_k:
                logits = keep_top_k(logits, strengths["top_k"])
            if self.top_p:
                logits = keep_top_p(logits, strengths["top_p"])
            if self.min_p:
                logits = keep_min_p(logits, strengths["min_p"])
            logits = logits + gumbel_noise(strengths["seed"], rows, step, logits.shape[-1])
        return backend.decoding.argmax(logits)


def penalize(logits, seen, penalty):
    """Divides the positive scores of tokens that occurred by `penalty`, and multiplies the negative ones."""
    return ops.where(seen, ops.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits, top_k):
    """Removes all but the `top_k` highest of each row; those equal to the last of them stay."""
    return ops.where(logits > _threshold(logits, ops.ones_like(logits), top_k), logits, _LOWEST)


def keep_top_p(logits, top_p):
    """Removes a token if those above it have probability `top_p` already; equal ones stay or go together."""
    return ops.where(logits > _threshold(logits, ops.softmax(logits, axis=-1), top_p), logits, _LOWEST)


def keep_min_p(logits, min_p):
    """Removes the tokens that have less than `min_p` times the probability of the likeliest."""
    return ops.where(logits < ops.max(logits, axis=-1, keepdims=True) + ops.log(min_p), _LOWEST, logits)


def _threshold(logits, weights, limit):
    """The greatest value above which weights of at least `limit` lie, (rows, 1)."""
    high = ops.max(logits, axis=-1, keepdims=True)
    low = ops.min(ops.where(logits > _LOWEST / 2, logits, high), axis=-1, keepdims=True) - 1.0

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = ops.sum(ops.where(logits > middle, weights, 0.0), axis=-1, keepdims=True) >= limit
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    return ops.fori_loop(0, _HALVINGS, halve, (low, high))[0]


def gumbel_noise(seed, rows, step, vocabulary_size: int):
    """Standard Gumbel noise (rows, vocabulary), float32, a pure function of the four numbers of each element.

    Args:
        seed: int scalar.
        rows: int (rows,).
        step: int scalar.
        vocabulary_size: the tokens are numbered from 0.
    """
    seed, rows, step = (ops.cast(number, "int32") for number in (seed, rows, step))
    key = mix(mix(mix(seed) + rows * GOLDEN) + step * GOLDEN)[:, None]
    bits = mix(mix(ops.arange(vocabulary_size, dtype="int32")[None] + key) + key)
    uniform = (ops.cast(shift_right(bits, 8), "float32") + 0.5) * 2.0**-24  # in (0, 1), exact in float32
    return -ops.log(-ops.log(uniform))
