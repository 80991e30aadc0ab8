"""The choice of the next token: repetition penalty, top-k, top-p, min-p and sampling, the same on every backend.

Top-k and top-p keep the logits above a threshold that is found by bisection. This needs no sorting of the vocabulary,
which under XLA on a CPU takes as long as the whole model, and `k` is not part of the compiled program.

A sampled token is the argmax of logits plus Gumbel noise (Gumbel 1954; "Gumbel-max"). The noise of a token is a hash
of (seed, row, step, token), so a seed gives the same text on all backends, however prompts are batched or padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops

from kerasllm import backend
from kerasllm.backend.hashing import GOLDEN, mix, shift_right

_LOWEST = -3e38  # the logit of a removed token; finite, as the difference of two infinities is undefined
_HALVINGS = 32


@dataclass(frozen=True)
class Rule:
    """The operations that choose a token, in this order; their strengths are separate, as they need no new program.

    Args:
        penalize: whether tokens that occurred score lower (Keskar et al. 2019, https://arxiv.org/abs/1909.05858).
        count: whether new tokens score lower by how often they occurred, as in OpenAI's API.
        sample: whether the token is sampled; otherwise the most likely one is taken.
        top_k: whether to sample from the k most likely tokens (Fan et al. 2018, https://arxiv.org/abs/1805.04833).
        top_p: whether to sample from the most likely tokens that together have probability p (Holtzman et al. 2019,
            https://arxiv.org/abs/1904.09751).
        min_p: whether to sample from tokens with at least min_p times the highest probability (Nguyen et al. 2024,
            https://arxiv.org/abs/2407.01082).
    """

    penalize: bool = False
    count: bool = False
    sample: bool = False
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False

    def choose(self, logits, strengths: dict[str, Any], seen, rows, step, counts=None):
        """Returns the next token of each row, int32 (rows,).

        A strength that changes nothing makes a row the same as without the operation: `repetition_penalty` 1,
        `presence_penalty` and `frequency_penalty` 0, `top_k` of the whole vocabulary, `top_p` 2, `min_p` 0. A row with
        `temperature` 0 takes the most likely token.

        Args:
            logits: (rows, vocabulary).
            strengths: `repetition_penalty`, `presence_penalty`, `frequency_penalty`, `temperature`, `top_k`, `top_p`
                and `min_p`, scalars, or (rows, 1) if each row has its own; and int `seed`, a scalar or (rows,). Only
                those of the rule's operations are read.
            seen: boolean (rows, vocabulary), True for tokens that occurred; used with `penalize`.
            rows: int (rows,), the row numbers.
            step: int scalar or (rows,), 0 for the first new token.
            counts: float (rows, vocabulary), how often a token is among the new ones; used with `count`.
        """
        logits = ops.cast(logits, "float32")
        if self.penalize:
            logits = penalize(logits, seen, strengths["repetition_penalty"])
        if self.count:
            presence = strengths["presence_penalty"] * ops.cast(counts > 0, "float32")
            logits = logits - (presence + strengths["frequency_penalty"] * counts)
        if self.sample:
            is_drawn = strengths["temperature"] > 0
            logits = logits / ops.where(is_drawn, strengths["temperature"], 1.0)
            if self.top_k:
                logits = keep_top_k(logits, strengths["top_k"])
            if self.top_p:
                logits = keep_top_p(logits, strengths["top_p"])
            if self.min_p:
                logits = keep_min_p(logits, strengths["min_p"])
            noise = gumbel_noise(strengths["seed"], rows, step, logits.shape[-1])
            logits = logits + ops.where(is_drawn, noise, 0.0)
        return backend.decoding.argmax(logits)


def penalize(logits, seen, penalty):
    """Returns logits in which `penalty` divides the positive and multiplies the negative ones of seen tokens."""
    return ops.where(seen, ops.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits, top_k):
    """Removes all but the `top_k` highest logits of each row; logits equal to the lowest of them are kept."""
    return ops.where(logits > _threshold(logits, ops.ones_like(logits), top_k), logits, _LOWEST)


def keep_top_p(logits, top_p):
    """Removes a token if more likely ones have probability `top_p` together; equal ones are treated alike."""
    return ops.where(logits > _threshold(logits, ops.softmax(logits, axis=-1), top_p), logits, _LOWEST)


def keep_min_p(logits, min_p):
    """Removes the tokens that have less than `min_p` times the highest probability."""
    return ops.where(logits < ops.max(logits, axis=-1, keepdims=True) + ops.log(min_p), _LOWEST, logits)


def _threshold(logits, weights, limit):
    """Returns the greatest value such that the weights of all logits above it sum to at least `limit`, (rows, 1)."""
    high = ops.max(logits, axis=-1, keepdims=True)
    low = ops.min(ops.where(logits > _LOWEST / 2, logits, high), axis=-1, keepdims=True) - 1.0

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = ops.sum(ops.where(logits > middle, weights, 0.0), axis=-1, keepdims=True) >= limit
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    return ops.fori_loop(0, _HALVINGS, halve, (low, high))[0]


def gumbel_noise(seed, rows, step, vocabulary_size: int):
    """Returns Gumbel noise float32 (rows, vocabulary), a pure function of seed, row, step and token.

    Args:
        seed: int scalar, or (rows,).
        rows: int (rows,).
        step: int scalar, or (rows,).
        vocabulary_size: number of tokens in the vocabulary.
    """
    seed, rows, step = (ops.cast(number, "int32") for number in (seed, rows, step))
    key = mix(mix(mix(seed) + rows * GOLDEN) + step * GOLDEN)[:, None]
    bits = mix(mix(ops.arange(vocabulary_size, dtype="int32")[None] + key) + key)
    uniform = (ops.cast(shift_right(bits, 8), "float32") + 0.5) * 2.0**-24  # in (0, 1), exact in float32
    return -ops.log(-ops.log(uniform))
