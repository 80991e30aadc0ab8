"""The cached forward pass: prompts in one go, then a token at a time, in programs that are compiled once a shape.

Prompts stand left-padded in columns 0 … width - 1, so that all rows write their next token to the same column,
and caches have a fixed number of columns. Widths and capacities are rounded up, so that prompts of a few lengths
share a program. The weights are arguments of the programs: what training changes afterwards counts.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.sampling import Rule
from kerasllm.layers.attention import combined_mask
from kerasllm.models.gpt.tasks import GPTCausalLM

State = dict[str, Any]
_STEP = 32


def rounded_up(length: int) -> int:
    """The least multiple of 32 that holds `length`; above 256, of an eighth of the next power of two."""
    step = max(_STEP, 2 ** (length - 1).bit_length() // 8)
    return -(-length // step) * step


class Decoder:
    """The compiled programs of one model; holds no reference to it that would keep it alive.

    `traces` counts how often a program was made.
    """

    def __init__(self, model: GPTCausalLM) -> None:
        self._model = weakref.ref(model)
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._convert = backend.decoding.made_once(self._converted)
        self.traces = 0

    def weights(self) -> list[Any]:
        """The values of the model's weights in the type it computes in, so that a step casts nothing.

        Kernels are turned as the backend multiplies a few rows best.
        """
        model = self._live()
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
            rule: of choosing.
            inputs: `prompts` int (rows, width), left-padded; `starts` int (rows,), the column of each one's first
                token; `rows` int (rows,), their numbers; `stops` int (stop tokens,); `pad` int, written after
                a stop token; `width`; and the strengths of `Rule.choose`.
            weights: see there.
            capacity: columns of the caches and tokens.

        Returns:
            The state of `proceed`: `tokens` int (rows, capacity); `column`, the next to be written; `finished`
            boolean (rows,); `caches`; and `seen`, where the rule has a penalty.
        """

        def run(model, inputs, seen):
            hidden, caches = self.prefill(model, inputs, capacity)
            width = inputs["prompts"].shape[1]
            tokens = ops.pad(inputs["prompts"], ((0, 0), (0, capacity - width)))
            state = {
                "tokens": tokens,
                "column": inputs["width"],
                "finished": inputs["starts"] >= width,  # no row begins behind its end
                "caches": caches,
                **seen,
            }
            return self._choose(model, rule, inputs, state, hidden)

        program = self.program(("begin", rule, capacity), run, backend.decoding.compiled)
        seen = {"seen": inputs["seen"]} if rule.penalize else {}
        return program(weights, {key: value for key, value in inputs.items() if key != "seen"}, seen)

    def proceed(self, rule: Rule, inputs: State, weights: list[Any], state: State, count: int) -> State:
        """Chooses `count` more tokens, fewer if all rows are finished; the state given is used up."""

        def step(model, inputs, state):
            hidden, caches = self.extend(model, inputs, state)
            return self._choose(model, rule, inputs, state | {"caches": caches}, hidden)

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
        """The compiled `run`, which takes the model where its program takes the weights."""
        if key not in self._programs:

            def function(weights, *arguments):
                self.traces += 1
                model = self._live()
                # Not through the constructor, which would cast the values back to the variables' own type.
                with keras.StatelessScope() as scope:
                    for variable, value in zip(model.weights, weights, strict=True):
                        value = backend.decoding.turned(value) if _is_kernel(variable) else value
                        scope.add_update((variable, value))
                    return run(model, *arguments)

            self._programs[key] = compiled(function)
        return self._programs[key]

    def _live(self) -> GPTCausalLM:
        model = self._model()
        assert model is not None  # whoever generates holds it
        return model

    @staticmethod
    def prefill(model, inputs, capacity):
        """The last hidden state of each prompt, (rows, hidden_dim), and filled caches."""
        prompts, starts = inputs["prompts"], inputs["starts"]
        rows, width = prompts.shape
        config = model.config
        columns = ops.arange(width, dtype="int32")[None]
        positions = ops.maximum(columns - starts[:, None], 0)
        shape = (rows * config.key_value_heads, capacity, config.head_dim)
        cache_type = backend.decoding.cache_type(model.compute_dtype)
        caches = [
            (ops.zeros(shape, cache_type), ops.zeros(shape, cache_type)) for _ in range(config.num_layers)
        ]
        mask = combined_mask(columns >= starts[:, None], is_causal=True)
        hidden, caches = model.backbone.extend(prompts, positions, mask, caches, 0)
        return hidden[:, -1], caches

    @staticmethod
    def extend(model, inputs, state):
        """Feeds the last token of each row: its hidden state (rows, hidden_dim), and the caches with it."""
        column = state["column"] - 1
        starts = inputs["starts"][:, None]
        columns = ops.arange(state["tokens"].shape[1], dtype="int32")[None]
        mask = ops.logical_and(columns >= starts, columns <= column)[:, None]  # (rows, 1, capacity)
        # A row that has used up its positions may run on beside others; what it makes is not looked at.
        positions = ops.minimum(column - starts, model.config.max_sequence_length - 1)
        hidden, caches = model.backbone.extend(
            state["last"][:, None], positions, mask, state["caches"], column
        )
        return hidden[:, 0], caches

    @staticmethod
    def _choose(model, rule, inputs, state, hidden):
        """The state with one more token in each row."""
        logits = backend.decoding.scores(hidden, ops.convert_to_tensor(model.output_table))
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


_decoders: weakref.WeakKeyDictionary[GPTCausalLM, Decoder] = weakref.WeakKeyDictionary()


def decoder_of(model: GPTCausalLM) -> Decoder:
    """The model's decoder; the same at each call, as long as the model lives."""
    if model not in _decoders:
        _decoders[model] = Decoder(model)
    return _decoders[model]


def left_padded(prompts: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts at the right end of `width` columns, int32 (rows, width), and the column each begins in."""
    starts = np.array([width - len(prompt) for prompt in prompts], "int32")
    tokens = np.zeros((len(prompts), width), "int32")
    for row, prompt in zip(tokens, prompts, strict=True):
        row[width - len(prompt) :] = prompt
    return tokens, starts
