"""Continuous batching: texts join and leave a running batch, and each has its own column, step, seed and rule.

A batch has a fixed number of slots, so its programs have fixed shapes and are compiled once. A prompt runs alone, and
its caches are copied into those of a slot. Then the slots are advanced together, a token at a time. The model's
programs are the same whatever the slots hold, and their rows do not touch one another: the same request gives the same
text whatever else is in the batch, and `model.generate` gives it, too.

Reference: Yu et al. 2022, "Orca", https://www.usenix.org/conference/osdi22/presentation/yu, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.generation.continuation import Settings
from kerasllm.generation.decoding import State, decoder_of, left_padded, rounded_up
from kerasllm.generation.protocol import GenerativeModel
from kerasllm.generation.sampling import Rule

MOST_ALTERNATIVES = 20
"""The most alternatives to a token whose log probabilities can be asked for."""

_MOST_POSITIONS, _LONGEST_COMPILED = 8192, 1024
"""For a model of more positions, as a recurrent one, which has no end, only prompts up to a length are prepared for."""

_NEUTRAL = {
    "temperature": 0.0,
    "top_p": 2.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@dataclass(frozen=True)
class SlotRequest:
    """A prompt that is to be continued.

    Args:
        prompt: its token ids, at least one.
        settings: the settings of generation, without beam search. `first_row` is the row number of the draws.
        presence_penalty: number by which tokens that are among the new ones score lower.
        frequency_penalty: number by which a token scores lower for each time that it is among the new ones.
        alternatives: number of most likely tokens that are returned beside each token, at most 20.

    Raises:
        InputError: a setting is out of its range.
    """

    prompt: Sequence[int]
    settings: Settings
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    alternatives: int = 0

    def __post_init__(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            if not -100 < getattr(self, name) < 100:
                raise InputError(f"{name} is {getattr(self, name)!r}, it must lie between -100 and 100")
        if not 0 <= self.alternatives <= MOST_ALTERNATIVES:
            raise InputError(f"alternatives is {self.alternatives}, it must lie in [0, {MOST_ALTERNATIVES}]")
        if self.settings.num_beams > 1:
            raise InputError("beam search is not possible in slots")

    @property
    def rule(self) -> Rule:
        """The rule of this request, rounded up to one of the few for which there are programs."""
        own = self.settings.rule
        is_filtered = own.top_k or own.top_p or own.min_p
        is_penalized = bool(own.penalize or self.presence_penalty or self.frequency_penalty)
        return Rule(is_penalized, is_penalized, own.sample, is_filtered, is_filtered, is_filtered)

    def strengths(self, vocabulary_size: int) -> dict[str, float]:
        """Returns the strengths of the rule, those that change nothing where nothing is asked for."""
        own, rule = self.settings, self.settings.rule
        asked = {
            "temperature": (1.0 if own.temperature is None else own.temperature) if rule.sample else None,
            "top_k": own.top_k if rule.top_k else vocabulary_size,
            "top_p": own.top_p if rule.top_p else None,
            "min_p": own.min_p if rule.min_p else None,
            "repetition_penalty": own.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        return _NEUTRAL | {name: value for name, value in asked.items() if value is not None}


class Chosen(NamedTuple):
    """The next token of each slot; what belongs to a free slot means nothing.

    Args:
        tokens: int32 (slots,).
        log_probabilities: float32 (slots,), of these tokens before any penalty or temperature.
        alternatives: the most likely tokens, int32 (slots, 20), and their log probabilities, float32 (slots, 20), both
            in descending order; None if no slot asks for them. A small vocabulary has fewer.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    alternatives: tuple[np.ndarray, np.ndarray] | None


class Slots:
    """Slots in which a model continues texts.

    In each round, `put` fills free slots, `choose` gives each slot's next token, and `advance` runs those tokens.

    Args:
        model: the model; its weights must not change while the slots are used.
        number: the number of slots.
    """

    def __init__(self, model: GenerativeModel, number: int) -> None:
        self.model, self.number = model, number
        self.requests: list[SlotRequest | None] = [None] * number
        self._vocabulary_size = int(model.config.vocabulary_size)
        positions = model.config.max_sequence_length
        self._widths = sorted({min(rounded_up(length), positions) for length in range(1, positions + 1)})
        most_padding = max(
            width - previous - 1 for previous, width in zip([0, *self._widths], self._widths, strict=False)
        )
        self._is_endless = positions > _MOST_POSITIONS
        self._capacity = -(-(positions + most_padding) // 32) * 32
        self._decoder = decoder_of(model)
        self._weights = self._decoder.weights()
        self._rule_programs: dict[Any, Any] = {}
        # The newest token, its column, the first column and the step of each slot.
        self._tokens, self._columns, self._starts, self._steps = np.zeros((4, number), "int32")
        self._counts = np.zeros((number, self._vocabulary_size), "float32")
        self._seen = np.zeros((number, self._vocabulary_size), bool)
        self._strengths: dict[str, Any] = {}
        self._state = self._begin()

    def put(self, slot: int, request: SlotRequest) -> None:
        """Runs a prompt and puts it into a slot, which it takes over from whatever was there.

        Args:
            slot: the number of the slot.
            request: the prompt, no longer than the model's positions.
        """
        length = len(request.prompt)
        width = next(width for width in self._widths if width >= length)
        prompts, starts = left_padded([list(request.prompt)], width)
        inputs = {"prompts": prompts, "starts": starts, "slot": np.int32(slot)}
        once = _untraced if self._is_endless else _once
        program = self._decoder.program(("slots put", self.number), self._put, once)
        self._state = program(self._weights, _tensors(inputs), self._state, 1)
        self._columns[slot], self._starts[slot], self._steps[slot] = width - 1, starts[0], 0
        self.requests[slot] = request
        if request.rule.count:
            self._counts[slot], self._seen[slot] = 0.0, False
            self._seen[slot, list(request.prompt)] = True
        self._strengths = {}

    def free(self, slot: int) -> None:
        """Frees a slot."""
        self.requests[slot] = None
        self._tokens[slot] = self._columns[slot] = self._starts[slot] = self._steps[slot] = 0
        self._strengths = {}

    def choose(self) -> Chosen:
        """Returns the next token of each slot."""
        running = [(slot, request) for slot, request in enumerate(self.requests) if request is not None]
        rule = _union([request.rule for _, request in running])
        inputs = {"logits": self._state["logits"], **self._strengths_of(running)}
        inputs |= _tensors({"steps": self._steps})
        if rule.count:
            inputs |= _tensors({"counts": self._counts, "seen": self._seen})
        found = self._chosen(rule, inputs)
        tokens, log_probabilities = (
            ops.convert_to_numpy(found[name]) for name in ("tokens", "log_probabilities")
        )
        alternatives = None
        if any(request.alternatives for _, request in running):
            top = self._most_likely(self._state["logits"])
            alternatives = ops.convert_to_numpy(top["tokens"]), ops.convert_to_numpy(top["log_probabilities"])
        for slot, request in running:
            self._tokens[slot] = tokens[slot]
            self._steps[slot] += 1
            self._columns[slot] += 1
            if request.rule.count:
                self._counts[slot, tokens[slot]] += 1
                self._seen[slot, tokens[slot]] = True
        return Chosen(tokens, log_probabilities, alternatives)

    def advance(self) -> None:
        """Runs the newest token of each slot."""
        inputs = {"tokens": self._tokens, "columns": self._columns, "starts": self._starts}
        program = self._decoder.program(("slots advance", self.number), _advance, _once)
        self._state = program(self._weights, _tensors(inputs), self._state, 1)

    def compile(self) -> int:
        """Compiles the programs, by running each once, and returns their number; the slots must be free.

        Of a model with very many positions, those of longer prompts are left to the first one that needs them.
        """
        greedy, drawn = Settings(), Settings(temperature=1.0)
        filtered = Settings(temperature=1.0, top_k=2, top_p=0.5)
        widths = [width for width in self._widths if width <= _LONGEST_COMPILED or not self._is_endless]
        for width in widths:
            self.put(0, SlotRequest([0] * width, greedy))
        for settings in (greedy, drawn, filtered):
            for penalty in (0.0, 1.0):
                self.requests[0] = SlotRequest([0], settings, penalty, 0.0, MOST_ALTERNATIVES)
                self._strengths = {}
                self.choose()
        self._columns[0] = 0
        self.advance()
        self.free(0)
        return len(widths) + len(self._rule_programs) + 2

    def _begin(self) -> State:
        """Returns the state of empty slots; of the prompt that runs for it, only the shapes matter."""

        def run(model, prompts, starts):
            logits, caches = model.prefill(prompts, starts, self._capacity)

            def empty(part):
                return ops.zeros((self.number * part.shape[0], *part.shape[1:]), part.dtype)

            return {
                "logits": ops.cast(empty(logits), "float32"),
                "caches": keras.tree.map_structure(empty, caches),
            }

        program = self._decoder.program(("slots", self.number), run, backend.decoding.compiled)
        prompts, starts = (ops.convert_to_tensor(each) for each in left_padded([[0]], self._widths[0]))
        return program(self._weights, prompts, starts)

    def _put(self, model, inputs, state):
        logits, caches = model.prefill(inputs["prompts"], inputs["starts"], self._capacity)

        def put(old, new):
            # Behind one axis of slots, in which a slot is a column, whatever the shape of its part.
            slots = ops.reshape(old, (1, self.number, -1))
            part = ops.reshape(ops.cast(new, old.dtype), (1, 1, -1))
            return ops.reshape(backend.write_slice(slots, part, inputs["slot"]), old.shape)

        return keras.tree.map_structure(put, state, {"logits": logits, "caches": caches})

    def _strengths_of(self, running: list[tuple[int, SlotRequest]]) -> dict[str, Any]:
        """Returns the strengths and seeds of all slots as tensors, which are kept until a slot changes."""
        if not self._strengths:
            neutral = _NEUTRAL | {"top_k": self._vocabulary_size}
            found = {name: np.full((self.number, 1), value, "float32") for name, value in neutral.items()}
            found["seed"], found["rows"] = np.zeros((2, self.number), "int32")
            for slot, request in running:
                for name, value in request.strengths(self._vocabulary_size).items():
                    found[name][slot] = value
                found["seed"][slot] = request.settings.seed % 2**31
                found["rows"][slot] = request.settings.first_row
            self._strengths = _tensors(found)
        return self._strengths

    def _chosen(self, rule: Rule, inputs: State) -> State:
        def choose(weights, inputs, state):
            logits = inputs["logits"]
            tokens = rule.choose(
                logits, inputs, inputs.get("seen"), inputs["rows"], inputs["steps"], inputs.get("counts")
            )
            chosen = ops.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
            return {"tokens": tokens, "log_probabilities": chosen - ops.logsumexp(logits, axis=-1)}

        if rule not in self._rule_programs:
            self._rule_programs[rule] = _once(choose)
        empty = {
            "tokens": np.zeros(self.number, "int32"),
            "log_probabilities": np.zeros(self.number, "float32"),
        }
        return self._rule_programs[rule]([], inputs, _tensors(empty), 1)

    def _most_likely(self, logits) -> State:
        number = min(MOST_ALTERNATIVES, self._vocabulary_size)

        def most_likely(weights, inputs, state):
            best, tokens = ops.top_k(inputs["logits"], number)
            sums = ops.logsumexp(inputs["logits"], axis=-1, keepdims=True)
            return {"tokens": ops.cast(tokens, "int32"), "log_probabilities": best - sums}

        if "most likely" not in self._rule_programs:
            self._rule_programs["most likely"] = _once(most_likely)
        shape = (self.number, number)
        empty = {"tokens": np.zeros(shape, "int32"), "log_probabilities": np.zeros(shape, "float32")}
        return self._rule_programs["most likely"]([], {"logits": logits}, _tensors(empty), 1)


def _advance(model, inputs, state):
    logits, caches = model.step(inputs["tokens"], inputs["columns"], inputs["starts"], state["caches"])
    return {"logits": ops.cast(logits, "float32"), "caches": caches}


def _once(step):
    """Returns the program of a step; as a loop of one, for that is what writes into the memory that it is given."""
    return backend.decoding.repeated(step, lambda state: False)


def _untraced(step):
    """Returns the program of a step that PyTorch does not trace; a recurrence over a prompt would be a graph of all
    its steps.
    """
    program = backend.decoding.compiled(step)
    return lambda weights, inputs, state, count: program(weights, inputs, state)


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    # Copies, as a backend may share the memory, and run later than the next change.
    return {name: ops.convert_to_tensor(np.array(array)) for name, array in arrays.items()}


def _union(rules: Sequence[Rule]) -> Rule:
    """Returns the rule with the operations of all."""
    return Rule(**{each.name: any(getattr(rule, each.name) for rule in rules) for each in fields(Rule)})
