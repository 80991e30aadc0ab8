"""Prompts in, continuations out: the settings of `model.generate`, and what the host does between compiled steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from kerasllm.errors import InputError
from kerasllm.generation.beam_search import beam_search
from kerasllm.generation.decoding import decoder_of, left_padded, rounded_up
from kerasllm.generation.sampling import Rule
from kerasllm.models.gpt import GPTCausalLM

_NEW_TOKENS = 128
_TOKENS_AT_A_TIME = 32  # between looks at stop strings
_STOPS = 8  # stop tokens are filled up to a multiple, so that their number needs no new program


@dataclass(frozen=True)
class Settings:
    """How a continuation is chosen; greedily unless a setting of sampling is given.

    Args:
        max_new_tokens: at most so many; 128, or as many as the model has positions for, where None.
        temperature: the scores are divided by it; 0 is greedy. Sampling is on where this or one of the next
            three is given.
        top_k: draw from the k likeliest.
        top_p: draw from the likeliest that together have probability p, in (0, 1].
        min_p: draw from those with at least min_p times the probability of the likeliest, in (0, 1].
        repetition_penalty: above 1, tokens that occurred score lower.
        num_beams: above 1, the best of so many beginnings side by side is kept (see `beam_search`), not the
            likeliest token each time; not together with sampling.
        length_penalty: a finished text scores its log probability / (new tokens) ** length_penalty; above 0
            longer ones gain by it, 0 is plain probability.
        stop_token_ids: a row ends with one of these; the model's end token where None.
        stop: texts at which a continuation is cut off, themselves left out; needs a tokenizer.
        seed: of the draws; the same on every backend.

    Raises:
        InputError: a setting is out of its range; names it.
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

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, least in (("max_new_tokens", 1), ("top_k", 1), ("num_beams", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or value < least):
                raise InputError(f"{name} is {value!r}, it must be a whole number of at least {least}")
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
        """What is done to the scores."""
        given = any(value is not None for value in (self.temperature, self.top_k, self.top_p, self.min_p))
        sample = given and self.temperature != 0
        return Rule(
            penalize=self.repetition_penalty != 1,
            sample=sample,
            top_k=sample and self.top_k is not None,
            top_p=sample and self.top_p is not None and self.top_p < 1,
            min_p=sample and self.min_p is not None,
        )

    def strengths(self) -> dict[str, Any]:
        """The numbers that the rule takes."""
        return {
            "temperature": np.float32(1.0 if self.temperature is None else self.temperature),
            "top_k": np.float32(self.top_k or 0),
            "top_p": np.float32(self.top_p or 1),
            "min_p": np.float32(self.min_p or 1),
            "repetition_penalty": np.float32(self.repetition_penalty),
            "length_penalty": np.float32(self.length_penalty),
            "seed": np.int32(self.seed % 2**31),
        }


def generate(
    model: GPTCausalLM,
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
            a text or a list of texts. An empty text begins with the end mark, as a document does.
        tokenizer: of the `tokenizers` library; for texts and stop strings.
        on_tokens: called with a row's number and its new tokens as they come, one at a time; with beams all
            at once, as none is sure before the end.
        pad_token_id: fills rows that ended early, in an array; the token that ended them where None.
        settings: of `Settings`.

    Returns:
        Prompt and continuation, in the form of the prompts: an int32 array, lists, or texts. A row that met a
        stop token ends with it.

    Raises:
        InputError: a prompt is empty or holds an unknown token or character, the prompt and `max_new_tokens`
            do not fit into the model's positions, or a setting is out of range.
    """
    try:
        chosen = Settings(**settings)
    except TypeError as error:
        raise InputError(f"generate: {error}".replace("Settings.__init__() got an ", "")) from error
    form, rows = _read_prompts(prompts, tokenizer, model)
    if chosen.stop and tokenizer is None:
        raise InputError("stop texts need the tokenizer: give tokenizer=…")
    chosen = dataclasses.replace(chosen, max_new_tokens=_check(rows, model, chosen))
    done = [list(row) for row in rows]
    for number, tokens in _stream(model, rows, chosen, tokenizer, at_a_time=1 if on_tokens else None):
        done[number] += tokens
        if on_tokens is not None:
            on_tokens(number, tokens)
    cuts = [_cut(new[len(old) :], chosen.stop, tokenizer) for old, new in zip(rows, done, strict=True)]
    if form in ("text", "texts"):
        texts = [
            tokenizer.decode(old) + (tokenizer.decode(new[len(old) :]) if cut is None else cut)
            for old, new, cut in zip(rows, done, cuts, strict=True)
        ]
        return texts[0] if form == "text" else texts
    if form == "lists":
        return done
    longest = max(map(len, done))
    filled = [
        row + [row[-1] if pad_token_id is None else pad_token_id] * (longest - len(row)) for row in done
    ]
    array = np.array(filled, "int32")
    return array[0] if form == "row" else array


def _read_prompts(prompts: Any, tokenizer: Any, model: GPTCausalLM) -> tuple[str, list[list[int]]]:
    """The form that the result is to have, and the prompts as lists of ids."""
    if isinstance(prompts, str) or (
        isinstance(prompts, list | tuple) and prompts and isinstance(prompts[0], str)
    ):
        if tokenizer is None:
            raise InputError("a text as prompt needs the tokenizer: give tokenizer=…")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        end = model.config.end_token_id
        rows = [row if row or end is None else [end] for row in rows]
        return ("text" if isinstance(prompts, str) else "texts"), rows
    if isinstance(prompts, list | tuple) and prompts and isinstance(prompts[0], list | tuple | np.ndarray):
        lists = [[int(token) for token in row] for row in prompts]
        return ("array" if len({len(row) for row in lists}) == 1 else "lists"), lists
    array = np.asarray(prompts if isinstance(prompts, list | tuple) else ops.convert_to_numpy(prompts))
    if array.ndim not in (1, 2) or not (array.size == 0 or np.issubdtype(array.dtype, np.integer)):
        raise InputError(
            f"prompts of shape {array.shape} and type {array.dtype}: give whole numbers, (batch, length)"
        )
    return ("array", array.tolist()) if array.ndim == 2 else ("row", [array.tolist()])


def _check(rows: list[list[int]], model: GPTCausalLM, settings: Settings) -> int:
    """Refuses prompts that the model cannot take; returns the number of new tokens."""
    if not rows:
        raise InputError("there is no prompt")
    vocabulary, positions = model.config.vocabulary_size, model.config.max_sequence_length
    for number, row in enumerate(rows, 1):
        if not row:
            raise InputError(f"prompt {number} is empty: give at least one token")
        wrong = next((token for token in row if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise InputError(
                f"prompt {number} holds token {wrong}, the model has tokens 0 to {vocabulary - 1}"
            )
    for token in settings.stop_token_ids or ():
        if not 0 <= token < vocabulary:
            raise InputError(f"stop_token_ids holds {token}, the model has tokens 0 to {vocabulary - 1}")
    longest = max(map(len, rows))
    new = settings.max_new_tokens or max(min(_NEW_TOKENS, positions - longest), 1)
    if longest + new > positions:
        raise InputError(
            f"a prompt of {longest} tokens and max_new_tokens {new} make {longest + new}, the model has "
            f"{positions} positions: shorten one of them"
        )
    return new


def _stream(
    model: GPTCausalLM, rows: list[list[int]], settings: Settings, tokenizer: Any, at_a_time: int | None
) -> Iterator[tuple[int, list[int]]]:
    """New tokens as (row, tokens), in order within a row; its last is a stop token or the `max_new_tokens`th."""
    decoder, rule = decoder_of(model), settings.rule
    width = min(rounded_up(max(map(len, rows))), model.config.max_sequence_length)
    count = settings.max_new_tokens or _NEW_TOKENS
    end = width + count
    capacity = rounded_up(end)
    stops = settings.stop_token_ids
    if stops is None:
        stops = model.config.end_token_ids
    inputs = _inputs(model, rows, settings, width, stops)
    weights = decoder.weights()
    if settings.num_beams > 1:
        sizes = {"num_beams": settings.num_beams, "capacity": capacity, "count": count}
        yield from enumerate(beam_search(decoder, rule, inputs, weights, **sizes))
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
            first_stop = next((place for place, token in enumerate(found, 1) if token in stops), None)
            new[row] += found[:first_stop]
            yield row, found[:first_stop]
            alive[row] = first_stop is None and _cut(new[row], settings.stop, tokenizer) is None
        column = reached
        if column >= end or not any(alive):
            return
        state = decoder.proceed(rule, inputs, weights, state, min(step, end - column))


def _inputs(
    model: GPTCausalLM, rows: list[list[int]], settings: Settings, width: int, stops: Sequence[int]
) -> dict[str, Any]:
    """What the compiled programs take, as tensors."""
    prompts, starts = left_padded(rows, width)
    inputs: dict[str, Any] = {
        "prompts": prompts,
        "starts": starts,
        "rows": np.arange(len(rows), dtype="int32"),
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


def _cut(new: list[int], stop: Sequence[str], tokenizer: Any) -> str | None:
    """The text of new tokens up to the first stop text; None if there is none in it."""
    if not stop:
        return None
    text = tokenizer.decode(new)
    places = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    return text[: min(places)] if places else None
