"""Decoding: whole prompts first, then a token at a time, in programs that are compiled once per shape.

Prompts are left-padded in columns 0 … width - 1, so that all rows write their next token to the same column, and
caches have a fixed number of columns. Widths and capacities are rounded up, so that prompts of similar lengths share a
program. The weights are arguments of the programs, so that later training takes effect without a new compilation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.protocol import GenerativeModel
from kerasllm.generation.sampling import Rule

State = dict[str, Any]
_STEP = 32


def rounded_up(length: int) -> int:
    """Returns `length` rounded up to a multiple of 32, or above 256 of an eighth of the next power of two."""
    step = max(_STEP, 2 ** (length - 1).bit_length() // 8)
    return -(-length // step) * step


class Decoder:
    """The compiled programs of a model, to which it has only a weak reference.

    `traces` counts how often a program was traced.
    """

    def __init__(self, model: GenerativeModel) -> None:
        self._model = weakref.ref(model)
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._convert = backend.decoding.made_once(self._converted)
        self.traces = 0

    def weights(self) -> list[Any]:
        """Returns the values of the model's weights in its compute dtype, so that a step need not cast them.

        With a compute dtype other than float32, kernels are laid out as suits the backend's products of few rows.
        """
        model = self._live()
        with backend.reading(model):
            values = [ops.convert_to_tensor(variable) for variable in model.weights]
        if model.compute_dtype == model.variable_dtype == "float32":
            return values
        return self._convert(values)

    def _converted(self, tensors: list[Any]) -> list[Any]:
        model = self._live()
        compute = model.compute_dtype

        def value(variable, tensor):
            floating = keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype))
            tensor = ops.cast(tensor, compute) if floating and compute != variable.dtype else tensor
            return backend.decoding.turned(tensor) if _is_kernel(variable) else tensor

        return [value(*pair) for pair in zip(model.weights, tensors, strict=True)]

    def begin(self, rule: Rule, inputs: State, weights: list[Any], capacity: int) -> State:
        """Runs the prompts and chooses the first new token of each row.

        Args:
            rule: the rule by which tokens are chosen.
            inputs: `prompts` int (rows, width), left-padded; `starts` int (rows,), the column of each prompt's first
                token; `rows` int (rows,), the row numbers; `stops` int (stop tokens,); `pad` int, the token that is
                written after a stop token; `width`; and the strengths of `Rule.choose`.
            weights: the result of `weights`.
            capacity: number of columns of the caches and tokens.

        Returns:
            The state for `proceed`: `tokens` int (rows, capacity); `last` int (rows,), the newest tokens; `column`, the
            next column; `finished` boolean (rows,); `caches`; and `seen`, if the rule has a penalty.
        """

        def run(model, inputs, seen):
            logits, caches = model.prefill(inputs["prompts"], inputs["starts"], capacity)
            width = inputs["prompts"].shape[1]
            tokens = ops.pad(inputs["prompts"], ((0, 0), (0, capacity - width)))
            state = {
                "tokens": tokens,
                "column": inputs["width"],
                "finished": inputs["starts"] >= width,  # all False, as no prompt is empty
                "caches": caches,
                **seen,
            }
            return self._choose(rule, inputs, state, logits)

        program = self.program(("begin", rule, capacity), run, backend.decoding.compiled)
        seen = {"seen": inputs["seen"]} if rule.penalize else {}
        return program(weights, {key: value for key, value in inputs.items() if key != "seen"}, seen)

    def proceed(self, rule: Rule, inputs: State, weights: list[Any], state: State, count: int) -> State:
        """Returns the state after `count` more tokens, or fewer if all rows finish; `state` is consumed."""

        def step(model, inputs, state):
            logits, caches = model.step(state["last"], state["column"] - 1, inputs["starts"], state["caches"])
            return self._choose(rule, inputs, state | {"caches": caches}, logits)

        def finished(state):
            return ops.all(state["finished"])

        def repeated(step):
            return backend.decoding.repeated(step, finished)

        program = self.program(("proceed", rule), step, repeated)
        inputs = {key: value for key, value in inputs.items() if key not in ("prompts", "seen")}
        return program(weights, inputs, state, count)

    def program(
        self, key: Any, run: Callable[..., Any], compiled: Callable[..., Callable[..., Any]]
    ) -> Callable[..., Any]:
        """Returns the program of `run`, compiled on first use; it takes the weights where `run` takes the model."""
        if key not in self._programs:

            def function(weights, *arguments):
                self.traces += 1
                model = self._live()
                # The constructor of the scope would cast the values back to the variables' own dtypes.
                with keras.StatelessScope() as scope:
                    for variable, value in zip(model.weights, weights, strict=True):
                        value = backend.decoding.turned(value) if _is_kernel(variable) else value
                        scope.add_update((variable, value))
                    return run(model, *arguments)

            self._programs[key] = compiled(function)
        return self._programs[key]

    def _live(self) -> GenerativeModel:
        model = self._model()
        assert model is not None  # the caller of `generate` holds it
        return model

    @staticmethod
    def _choose(rule, inputs, state, logits):
        """Returns the state with one more token in each row."""
        column = state["column"]
        chosen = rule.choose(logits, inputs, state.get("seen"), inputs["rows"], column - inputs["width"])
        chosen = ops.where(state["finished"], inputs["pad"], chosen)
        is_stop = ops.any(chosen[:, None] == inputs["stops"][None], axis=-1)
        columns = ops.arange(state["tokens"].shape[1], dtype="int32")[None]
        changed = {
            "tokens": ops.where(columns == column, chosen[:, None], state["tokens"]),
            "last": chosen,
            "column": column + 1,
            "finished": ops.logical_or(state["finished"], is_stop),
        }
        if rule.penalize:
            one_hot = ops.arange(logits.shape[-1], dtype="int32")[None] == chosen[:, None]
            changed["seen"] = ops.logical_or(state["seen"], one_hot)
        return state | changed


def _is_kernel(variable: Any) -> bool:
    return variable.name.endswith(("_kernel", "_lora_a", "_lora_b"))


_decoders: weakref.WeakKeyDictionary[GenerativeModel, Decoder] = weakref.WeakKeyDictionary()


def decoder_of(model: GenerativeModel) -> Decoder:
    """Returns the decoder of a model, which is created on first use and kept as long as the model lives."""
    if model not in _decoders:
        _decoders[model] = Decoder(model)
    return _decoders[model]


def left_padded(prompts: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompts left-padded to `width` columns, int32 (rows, width), and the first column of each."""
    starts = np.array([width - len(prompt) for prompt in prompts], "int32")
    tokens = np.zeros((len(prompts), width), "int32")
    for row, prompt in zip(tokens, prompts, strict=True):
        row[width - len(prompt) :] = prompt
    return tokens, starts
