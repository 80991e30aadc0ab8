"""Beam search with a length penalty, in the decoder's compiled programs.

For each prompt, `num_beams` unfinished texts (beams) are kept. At each step the most likely continuations of all
beams are found. Those that end join the finished texts, of which the best `num_beams` are kept, and the most likely
others become the new beams. The score of a finished text is its log probability divided by
((offset + new tokens) / (offset + 1)) ** length_penalty: with an offset of 0, by (new tokens) ** length_penalty, and
with one of 5 by the penalty of GNMT. A prompt is done when its best beam scores no higher than the worst of `num_beams`
finished texts.

Reference: Graves 2012, https://arxiv.org/abs/1211.3711; the penalty with an offset of 0 is that of `transformers`, the
other one that of Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from kerasllm import backend
from kerasllm.generation.decoding import Decoder, State
from kerasllm.generation.sampling import Rule, penalize

_NONE = -1e9  # the score of a missing beam; finite, as the difference of two infinities is undefined


class Beam(NamedTuple):
    """A finished continuation of a prompt.

    Args:
        tokens: the new tokens, with the stop token if one ended it.
        score: its score, see the module.
    """

    tokens: list[int]
    score: float


def beam_search(
    decoder: Decoder,
    rule: Rule,
    inputs: State,
    weights: list[Any],
    *,
    num_beams: int,
    capacity: int,
    counts: list[int],
) -> list[list[Beam]]:
    """Returns the finished continuations of each prompt, at most `num_beams`, the best first.

    Args:
        decoder: the model's decoder.
        rule: the rule, of which only the repetition penalty is used.
        inputs: the inputs of `Decoder.begin`, and the float scalars `length_penalty` and `length_offset`.
        weights: the result of `decoder.weights()`.
        num_beams: number of beams per prompt, at least 2.
        capacity: number of columns of the caches and tokens.
        counts: the most new tokens of each prompt.

    """
    width = inputs["prompts"].shape[1]
    ends = [[width + count] for count in counts]
    inputs = inputs | {"ends": ops.convert_to_tensor(ends, "int32")}  # (rows, 1)
    seen = {"seen": inputs.pop("seen")} if rule.penalize else {}

    def start(model, inputs, seen):
        return _start(model, inputs, seen, rule, num_beams, capacity)

    def step(model, inputs, state):
        starts = ops.repeat(inputs["starts"], num_beams)
        logits, caches = model.step(state["last"], state["column"] - 1, starts, state["caches"])
        return _advance(model, rule, inputs, state | {"caches": caches}, _log_probabilities(logits))

    def repeated(step: Callable[..., Any]) -> Callable[..., Any]:
        return backend.decoding.repeated(step, lambda state: ops.all(state["closed"]))

    begin = decoder.program(("beams", num_beams, rule, capacity), start, backend.decoding.compiled)
    state = begin(weights, inputs, seen)
    if max(counts) > 1:
        inputs = {name: value for name, value in inputs.items() if name != "prompts"}
        proceed = decoder.program(("more beams", num_beams, rule), step, repeated)
        state = proceed(weights, inputs, state, max(counts) - 1)
    done = (ops.convert_to_numpy(state[f"done_{name}"]) for name in ("tokens", "ends", "scores"))
    return [
        [
            Beam(tokens[width:end].tolist(), float(score))
            for tokens, end, score in zip(*row, strict=True)
            if score > _NONE / 2
        ]
        for row in zip(*done, strict=True)
    ]


def _log_probabilities(logits):
    logits = ops.cast(logits, "float32")
    return logits - ops.logsumexp(logits, axis=-1, keepdims=True)


def _start(model, inputs, seen, rule, num_beams, capacity):
    """Returns the state after the first new token; each prompt runs once, and its beams get copies of its caches."""
    logits, caches = model.prefill(inputs["prompts"], inputs["starts"], capacity)
    rows, width = inputs["prompts"].shape

    def for_each_beam(tensor):
        return ops.repeat(tensor, num_beams, axis=0)

    tokens = ops.pad(inputs["prompts"], ((0, 0), (0, capacity - width)))
    only_first = ops.where(ops.arange(num_beams) == 0, 0.0, _NONE)  # otherwise all beams would be the same
    state = {
        "tokens": for_each_beam(tokens),
        "scores": ops.broadcast_to(only_first[None], (rows, num_beams)),
        "column": inputs["width"],
        "closed": inputs["starts"] >= width,  # all False, as no prompt is empty
        "caches": model.reorder(caches, for_each_beam(ops.arange(rows, dtype="int32"))),
        "done_tokens": ops.zeros((rows, num_beams, capacity), "int32"),
        "done_scores": ops.full((rows, num_beams), _NONE),
        "done_ends": ops.zeros((rows, num_beams), "int32"),
        **({"seen": for_each_beam(seen["seen"])} if rule.penalize else {}),
    }
    return _advance(model, rule, inputs, state, for_each_beam(_log_probabilities(logits)))


def _advance(model, rule, inputs, state, log_probabilities):
    """Returns the state with one more token in each beam, from log probabilities (rows * beams, vocabulary)."""
    if rule.penalize:
        log_probabilities = penalize(log_probabilities, state["seen"], inputs["repetition_penalty"])
    rows, beams = state["scores"].shape
    vocabulary = log_probabilities.shape[-1]
    column, capacity = state["column"], state["tokens"].shape[1]
    scores = ops.reshape(log_probabilities, (rows, beams, vocabulary)) + state["scores"][:, :, None]
    flat = ops.reshape(scores, (rows, beams * vocabulary))
    is_stop = ops.any(ops.arange(vocabulary, dtype="int32")[:, None] == inputs["stops"][None], axis=-1)

    # Texts that end now: those of the best that end in a stop token, or all of the best in a row's last column.
    best, places = ops.top_k(flat, beams)
    parents, chosen = _parents_and_tokens(places, vocabulary)
    last_column = column + 1 >= inputs["ends"]
    ends = ops.logical_or(ops.take(is_stop, chosen), last_column)
    ends = ops.logical_and(ends, ops.logical_not(state["closed"])[:, None])
    new_tokens = ops.cast(column + 1 - inputs["width"], "float32")
    offset = inputs["length_offset"]
    penalty = ops.power((offset + new_tokens) / (offset + 1), inputs["length_penalty"])
    done_scores = ops.concatenate([state["done_scores"], ops.where(ends, best / penalty, _NONE)], axis=1)
    of_beams = ops.reshape(state["tokens"], (rows, beams, capacity))
    candidates = _written(_rows_at(of_beams, parents), column, chosen)
    done_tokens = ops.concatenate([state["done_tokens"], candidates], axis=1)
    done_ends = ops.pad(state["done_ends"], ((0, 0), (0, beams)))
    done_ends = ops.where(ops.arange(2 * beams) < beams, done_ends, column + 1)
    done_scores, order = ops.top_k(done_scores, beams)

    # Beams that continue: the best that do not end in a stop token.
    going = ops.where(ops.tile(is_stop, (beams,))[None], _NONE, flat)
    running, places = ops.top_k(going, beams)
    parents, chosen = _parents_and_tokens(places, vocabulary)
    of_all = ops.reshape(parents + ops.arange(rows, dtype="int32")[:, None] * beams, (rows * beams,))
    last = ops.reshape(chosen, (rows * beams,))
    worst = ops.min(done_scores, axis=1)
    decided = ops.logical_or(running[:, 0] / penalty <= worst, last_column[:, 0])
    changed = {
        "tokens": ops.reshape(
            _written(_rows_at(of_beams, parents), column, chosen), (rows * beams, capacity)
        ),
        "scores": running,
        "last": last,
        "column": column + 1,
        "closed": ops.logical_or(state["closed"], decided),
        "caches": model.reorder(state["caches"], of_all),
        "done_tokens": _rows_at(done_tokens, order),
        "done_scores": done_scores,
        "done_ends": ops.take_along_axis(done_ends, order, axis=1),
    }
    if rule.penalize:
        one_hot = ops.arange(vocabulary, dtype="int32")[None] == last[:, None]
        changed["seen"] = ops.logical_or(ops.take(state["seen"], of_all, axis=0), one_hot)
    return state | changed


def _parents_and_tokens(places, vocabulary: int):
    """Returns the beams and the tokens of places in an axis of beams * vocabulary, both int32."""
    places = ops.cast(places, "int32")
    return places // vocabulary, places % vocabulary


def _rows_at(tokens, places):
    """Returns the entries (rows, m, capacity) of `tokens` (rows, n, capacity) at `places` (rows, m)."""
    return ops.take_along_axis(tokens, ops.cast(places, "int32")[:, :, None], axis=1)


def _written(tokens, column, chosen):
    """Returns `tokens` (rows, beams, capacity) with `chosen` (rows, beams) written into a column."""
    columns = ops.arange(tokens.shape[-1], dtype="int32")
    return ops.where(columns == column, chosen[:, :, None], tokens)
