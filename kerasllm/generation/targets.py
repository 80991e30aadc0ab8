"""Target texts of an encoder-decoder for source texts: greedy, sampled, or by beam search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from kerasllm.errors import InputError
from kerasllm.generation.beam_search import Beam, beam_search
from kerasllm.generation.continuation import Settings, model_inputs
from kerasllm.generation.decoding import decoder_of, rounded_up

_GNMT_OFFSET = 5.0
_WIDTH = 8  # sources are padded to a multiple of this, so that few programs are compiled


@dataclass(frozen=True)
class TargetSettings:
    """How targets are generated.

    Args:
        settings: the settings of generation; `max_new_tokens` is the most tokens of a target, the end token included.
        max_ratio: the most tokens of a target, as a multiple of those of its source, plus ten; None for no such limit.
        gnmt: whether the score is divided by GNMT's length penalty instead of (target tokens) ** length_penalty.
        batch_size: number of sources at a time.

    Raises:
        InputError: a setting is out of range.
    """

    settings: Settings
    max_ratio: float | None = 2.0
    gnmt: bool = False
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.max_ratio is not None and not 0 < self.max_ratio < 1000:
            raise InputError(f"max_ratio is {self.max_ratio!r}, it must be above 0")
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}, it must be at least 1")

    def room(self, source_length: int, positions: int) -> int:
        """Returns the most tokens of a target."""
        most = min(self.settings.max_new_tokens or positions, positions)
        if self.max_ratio is not None:
            most = min(most, math.ceil(self.max_ratio * source_length) + 10)
        return most


def generate_targets(
    model: Any, sources: Sequence[Sequence[int]], settings: TargetSettings
) -> list[list[Beam]]:
    """Returns the targets of each source, the best first: one, or up to `num_beams` of a beam search.

    Sources of similar lengths are run together; a source's targets do not depend on the others.

    Args:
        model: a `Seq2SeqLM`, or another model of the protocol whose prompts are sources.
        sources: the token ids of each source, with the end token.
        settings: how targets are generated.

    Returns:
        For each source its targets without the end token, with their scores; NaN where there is no beam search.

    Raises:
        InputError: a source is empty or longer than the model's positions.
    """
    positions = model.config.max_sequence_length
    for number, source in enumerate(sources, 1):
        if not 0 < len(source) <= positions:
            raise InputError(f"source {number} has {len(source)} tokens, the model has {positions} positions")
    order = sorted(range(len(sources)), key=lambda index: (len(sources[index]), index))
    found: list[list[Beam]] = [[] for _ in sources]
    for start in range(0, len(order), settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        rows = [list(sources[index]) for index in chosen]
        # Each number of rows would need a program of its own.
        filled = rows + [rows[-1]] * (min(settings.batch_size, len(order)) - len(rows))
        numbers = [*chosen, *[0] * (len(filled) - len(rows))]
        for index, beams in zip(chosen, _batch(model, filled, numbers, settings), strict=False):
            found[index] = [Beam(_without_end(beam.tokens, model), beam.score) for beam in beams]
    return found


def _batch(
    model: Any, rows: list[list[int]], numbers: list[int], chosen: TargetSettings
) -> Iterator[list[Beam]]:
    """Yields the targets of some sources."""
    settings = chosen.settings
    positions = model.config.max_sequence_length
    decoder = decoder_of(model)
    width = min(-(-max(map(len, rows)) // _WIDTH) * _WIDTH, positions)
    rooms = [chosen.room(len(row), positions) for row in rows]
    capacity = width + rounded_up(max(rooms))
    stops = settings.stop_token_ids
    if stops is None:
        stops = model.config.end_token_ids
    inputs = model_inputs(model, rows, settings, width, stops)
    inputs["rows"] = ops.convert_to_tensor(np.array(numbers, "int32") + np.int32(settings.first_row))
    if settings.rule.penalize:  # the tokens of a source do not count
        inputs["seen"] = ops.zeros_like(inputs["seen"])
    weights = decoder.weights()
    if settings.num_beams > 1:
        inputs["length_offset"] = ops.convert_to_tensor(np.float32(_GNMT_OFFSET if chosen.gnmt else 0))
        sizes = {"num_beams": settings.num_beams, "capacity": capacity}
        yield from beam_search(decoder, settings.rule, inputs, weights, counts=rooms, **sizes)
        return
    state = decoder.begin(settings.rule, inputs, weights, capacity)
    if max(rooms) > 1:
        state = decoder.proceed(settings.rule, inputs, weights, state, max(rooms) - 1)
    tokens = ops.convert_to_numpy(state["tokens"])[:, width:].tolist()
    for row, room in zip(tokens, rooms, strict=True):
        end = next((place for place, token in enumerate(row[:room], 1) if token in stops), room)
        yield [Beam(row[:end], math.nan)]


def _without_end(tokens: list[int], model: Any) -> list[int]:
    """Returns the tokens of a target without the end token."""
    return tokens[:-1] if tokens and tokens[-1] in model.config.end_token_ids else tokens
