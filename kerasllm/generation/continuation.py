"""`model.generate`: its settings, and the work on the host between compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from kerasllm.errors import InputError
from kerasllm.generation.beam_search import beam_search
from kerasllm.generation.decoding import decoder_of, left_padded, rounded_up
from kerasllm.generation.prompts import check_tokens, read_prompts
from kerasllm.generation.protocol import GenerativeModel
from kerasllm.generation.sampling import Rule
from kerasllm.generation.texts import cut_at, prompt_and_addition

_NEW_TOKENS = 128
_TOKENS_AT_A_TIME = 32  # between checks for stop texts
_LEAST_TEMPERATURE = 1e-20
_WHOLE_NUMBERS = {
    "max_new_tokens": 1,
    "top_k": 1,
    "num_beams": 1,
    "seed": 0,
    "first_row": 0,
}  # the least value of each
_STOPS = 8  # stop tokens are padded to a multiple of this, so that their number rarely needs a new program


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _stop_tokens(given: Any) -> list[int]:
    try:
        tokens = list(given)
    except TypeError:
        tokens = [None]
    if isinstance(given, str) or not all(map(_is_whole, tokens)):
        raise InputError(f"stop_token_ids is {given!r}, it must be a list of whole numbers, as [50256]")
    return list(map(int, tokens))


@dataclass(frozen=True)
class Settings:
    """The settings of generation; it is greedy unless a setting of sampling is given.

    Args:
        max_new_tokens: the most new tokens; by default 128, or fewer if the model has fewer positions left after
            the prompt.
        temperature: number that the logits are divided by; 0, and any value below 1e-20, is greedy. Sampling is on
            if this or one of the next three is given.
        top_k: sample from the k most likely tokens.
        top_p: sample from the most likely tokens that together have probability p, in (0, 1].
        min_p: sample from tokens with at least min_p times the highest probability, in (0, 1].
        repetition_penalty: a number above 1 lowers the scores of tokens that have occurred.
        num_beams: number of beams; above 1, beam search is used (see `beam_search`), which excludes sampling.
        length_penalty: in beam search the score of a text is its log probability / (new tokens) ** length_penalty;
            above 0 it favors longer texts, and 0 compares plain probabilities.
        stop_token_ids: tokens that end a row; the default is the model's end tokens.
        stop: texts at which a continuation is cut off; they are left out of it. They need a tokenizer.
        seed: seed of the sampling; it gives the same draws on every backend.
        first_row: number of the first prompt. If prompts are split over several calls, give the number of prompts in
            earlier calls to get the draws of a single call.

    Raises:
        InputError: a setting is out of its range; the message names it.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    stop_token_ids: Sequence[int] | None = None
    stop: Sequence[str] = ()
    seed: int = 0
    first_row: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not (isinstance(self.stop, list | tuple) and all(isinstance(text, str) for text in self.stop)):
            raise InputError(f"stop is {self.stop!r}, it must be a text or a list of texts")
        if self.stop_token_ids is not None:
            object.__setattr__(self, "stop_token_ids", _stop_tokens(self.stop_token_ids))
        for name, least in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and least <= value):
                raise InputError(f"{name} is {value!r}, it must be a whole number of at least {least}")
        if self.first_row >= 2**30:
            raise InputError(f"first_row is {self.first_row}, it must be below {2**30}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name} is {value!r}, it must lie in (0, 1]")
        if self.temperature is not None and not 0 <= self.temperature < 1e6:
            raise InputError(f"temperature is {self.temperature!r}, it must be at least 0")
        if not 0 < self.repetition_penalty < 1e6:
            raise InputError(f"repetition_penalty is {self.repetition_penalty!r}, it must be above 0")
        if not -100 < self.length_penalty < 100:
            raise InputError(f"length_penalty is {self.length_penalty!r}, it must lie between -100 and 100")
        if self.num_beams > 1 and self.rule.sample:
            raise InputError(
                f"num_beams {self.num_beams} searches, temperature, top_k, top_p and min_p draw: give one or the other"
            )
        if any(not text for text in self.stop):
            raise InputError("stop holds an empty text, which is everywhere")

    @property
    def rule(self) -> Rule:
        """The rule by which tokens are chosen."""
        given = any(value is not None for value in (self.temperature, self.top_k, self.top_p, self.min_p))
        # A smaller divisor would overflow, and makes the most likely token certain anyway.
        sample = given and (self.temperature is None or self.temperature >= _LEAST_TEMPERATURE)
        return Rule(
            penalize=self.repetition_penalty != 1,
            sample=sample,
            top_k=sample and self.top_k is not None,
            top_p=sample and self.top_p is not None and self.top_p < 1,
            min_p=sample and self.min_p is not None,
        )

    def strengths(self) -> dict[str, Any]:
        """Returns the numbers that `Rule.choose` and beam search take."""
        return {
            "temperature": np.float32(1.0 if self.temperature is None else self.temperature),
            "top_k": np.float32(self.top_k or 0),
            "top_p": np.float32(self.top_p or 1),
            "min_p": np.float32(self.min_p or 1),
            "repetition_penalty": np.float32(self.repetition_penalty),
            "length_penalty": np.float32(self.length_penalty),
            "length_offset": np.float32(0),
            "seed": np.int32(self.seed % 2**31),
        }


def generate(
    model: GenerativeModel,
    prompts: Any,
    *,
    tokenizer: Any = None,
    on_tokens: Callable[[int, list[int]], None] | None = None,
    pad_token_id: int | None = None,
    **settings: Any,
) -> Any:
    """Continues prompts; `model.generate` calls this.

    Args:
        model: the model.
        prompts: int (batch, length) or (length,), or lists of ids of different lengths; with a tokenizer also
            a text or a list of texts, which begin with the token that the tokenizer puts before a text, if any. If
            there is none, the prompt for an empty text is the end token, which precedes a document.
        tokenizer: a tokenizer of the `tokenizers` library, which text prompts and stop texts need.
        on_tokens: a function that is called with a row's number and its new tokens, token by token; in beam search it
            is called once per row at the end.
        pad_token_id: the token that fills rows of an array that ended early; the default is the model's padding
            token, or if it has none each row's last token.
        settings: the arguments of `Settings`.

    Returns:
        The prompts with their continuations, in the form of the prompts: an int32 array, lists, or texts. A row that
        met a stop token ends with it.

    Raises:
        InputError: a prompt is empty or holds an unknown token or character, the prompt and `max_new_tokens`
            do not fit into the model's positions, or a setting is out of range.
    """
    try:
        chosen = Settings(**settings)
    except TypeError as error:
        raise InputError(f"generate: {error}".replace("Settings.__init__() got an ", "")) from error
    form, rows = read_prompts(prompts, tokenizer, model.config.end_token_id, chosen.first_row)
    if chosen.stop and tokenizer is None:
        raise InputError("stop texts need the tokenizer: give tokenizer=…")
    check_tokens(rows, chosen.stop_token_ids or (), model.config.vocabulary_size, chosen.first_row)
    rooms = _rooms(rows, model.config.max_sequence_length, chosen)
    done = [list(row) for row in rows]
    for number, tokens in _stream(model, rows, rooms, chosen, tokenizer, at_a_time=1 if on_tokens else None):
        done[number] += tokens
        if on_tokens is not None:
            on_tokens(number, tokens)
    if form in ("text", "texts"):
        texts = []
        for old, whole in zip(rows, done, strict=True):
            before, added = prompt_and_addition(tokenizer, old, whole[len(old) :])
            cut = cut_at(added, chosen.stop)
            texts.append(before + (added if cut is None else cut))
        return texts[0] if form == "text" else texts
    if form == "lists":
        return done
    longest = max(map(len, done))
    if pad_token_id is None:
        pad_token_id = padding(model.config)
    filled = [
        row + [row[-1] if pad_token_id is None else pad_token_id] * (longest - len(row)) for row in done
    ]
    array = np.array(filled, "int32")
    return array[0] if form == "row" else array


def padding(config: Any) -> int | None:
    """Returns the model's padding token, or None; some models have -1 for none."""
    token = getattr(config, "pad_token_id", None)
    return token if token is not None and 0 <= token < config.vocabulary_size else None


def _rooms(rows: list[list[int]], positions: int, settings: Settings) -> list[int]:
    """Returns the most new tokens of each row, which do not depend on the other rows."""
    rooms = []
    for row in rows:
        new = settings.max_new_tokens or max(min(_NEW_TOKENS, positions - len(row)), 1)
        if len(row) + new > positions:
            raise InputError(
                f"a prompt of {len(row)} tokens and max_new_tokens {new} make {len(row) + new}, the model has "
                f"{positions} positions: shorten one of them"
            )
        rooms.append(new)
    return rooms


def _stream(
    model: GenerativeModel,
    rows: list[list[int]],
    rooms: list[int],
    settings: Settings,
    tokenizer: Any,
    at_a_time: int | None,
) -> Iterator[tuple[int, list[int]]]:
    """Yields new tokens as (row, tokens), in order within a row, up to a stop token or the row's last new token."""
    decoder, rule = decoder_of(model), settings.rule
    width = min(rounded_up(max(map(len, rows))), model.config.max_sequence_length)
    count = max(rooms)
    end = width + count
    capacity = rounded_up(end)
    stops = settings.stop_token_ids
    if stops is None:
        stops = model.config.end_token_ids
    inputs = model_inputs(model, rows, settings, width, stops)
    weights = decoder.weights()
    if settings.num_beams > 1:
        sizes = {"num_beams": settings.num_beams, "capacity": capacity}
        found = beam_search(decoder, rule, inputs, weights, counts=rooms, **sizes)
        yield from enumerate(beams[0].tokens for beams in found)
        return
    state = decoder.begin(rule, inputs, weights, capacity)
    column = width
    alive = [True] * len(rows)
    new: list[list[int]] = [[] for _ in rows]
    step = at_a_time or (_TOKENS_AT_A_TIME if settings.stop else count)
    while True:
        reached = int(ops.convert_to_numpy(state["column"]))
        tokens = ops.convert_to_numpy(state["tokens"])[:, column:reached]
        for row, found in enumerate(tokens.tolist()):
            if not alive[row]:
                continue
            found = found[: rooms[row] - len(new[row])]
            first_stop = next((place for place, token in enumerate(found, 1) if token in stops), None)
            new[row] += found[:first_stop]
            yield row, found[:first_stop]
            alive[row] = first_stop is None and len(new[row]) < rooms[row]
            if alive[row] and settings.stop:
                _, added = prompt_and_addition(tokenizer, rows[row], new[row])
                alive[row] = cut_at(added, settings.stop) is None
        column = reached
        if column >= end or not any(alive):
            return
        state = decoder.proceed(rule, inputs, weights, state, min(step, end - column))


def model_inputs(
    model: GenerativeModel, rows: list[list[int]], settings: Settings, width: int, stops: Sequence[int]
) -> dict[str, Any]:
    """Returns the inputs of the compiled programs as tensors."""
    prompts, starts = left_padded(rows, width)
    inputs: dict[str, Any] = {
        "prompts": prompts,
        "starts": starts,
        "rows": np.arange(len(rows), dtype="int32") + np.int32(settings.first_row),
        "stops": np.array([*stops, *[-1] * (_STOPS - len(stops) % _STOPS)], "int32"),  # no token is -1
        "pad": np.int32(stops[0] if len(stops) else 0),
        "width": np.int32(width),
        **settings.strengths(),
    }
    if settings.rule.penalize:
        inputs["seen"] = np.zeros((len(rows), model.config.vocabulary_size), bool)
        for row, prompt in enumerate(rows):
            inputs["seen"][row, prompt] = True
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
