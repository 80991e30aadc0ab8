"""The equations of recurrent cells and their gradients, a step at a time, in operations that every backend has.

A step's `gates` are the projection of its input with all biases but a GRU's recurrent one, plus what the state adds.
The gates stand in PyTorch's order: input, forget, cell, output of an LSTM; reset, update, new of a GRU.

Reference: Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735 (LSTM, with the forget gate of
Gers et al. 2000); Cho et al. 2014, https://arxiv.org/abs/1406.1078 (GRU, with the reset after the product); Elman 1990.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""The number of gates of each cell; a row of its kernels belongs to a unit of a gate."""

STATES = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""The number of tensors in the state of each cell: the hidden state, and an LSTM's cell state."""


@dataclass(frozen=True)
class Functions:
    """The backend's functions that the equations need beside arithmetic.

    Args:
        sigmoid, tanh, relu: element by element.
        concatenate: from a list of tensors to one, along the last axis.
        is_positive: 1 where an element is above 0, else 0, in the element's type.
    """

    sigmoid: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    relu: Callable[[Any], Any]
    concatenate: Callable[[list[Any]], Any]
    is_positive: Callable[[Any], Any]


def advance(functions: Functions, cell: str, projected: Any, recurrent: Any, state: tuple[Any, ...]) -> Any:
    """Returns the next state of a cell, and what its gradient needs of this step.

    Args:
        functions: the backend's.
        cell: a key of `GATES`.
        projected: what the input adds to the gates, (batch, gates * hidden_dim).
        recurrent: what the hidden state adds to them, of the same shape.
        state: the state before, each (batch, hidden_dim).
    """
    sigmoid, tanh = functions.sigmoid, functions.tanh
    width = state[0].shape[-1]
    if cell == "lstm":
        gates = projected + recurrent
        both = sigmoid(gates[:, : 2 * width])  # input and forget
        new, output = tanh(gates[:, 2 * width : 3 * width]), sigmoid(gates[:, 3 * width :])
        memory = both[:, width:] * state[1] + both[:, :width] * new
        return (output * tanh(memory), memory), (functions.concatenate([both, new, output]),)
    if cell == "gru":
        both = sigmoid(projected[:, : 2 * width] + recurrent[:, : 2 * width])  # reset and update
        last = recurrent[:, 2 * width :]
        new = tanh(projected[:, 2 * width :] + both[:, :width] * last)
        hidden = new + both[:, width:] * (state[0] - new)
        return (hidden,), (functions.concatenate([both, new, last]),)
    hidden = (tanh if cell == "rnn_tanh" else functions.relu)(projected + recurrent)
    return (hidden,), (hidden,)


def retreat(
    functions: Functions,
    cell: str,
    slopes: tuple[Any, ...],
    kept: tuple[Any, ...],
    state: tuple[Any, ...],
    after: Any,
) -> Any:
    """Returns the gradients of what the input and the hidden state added to the gates, and of the state before.

    The second is None where it equals the first. That of the hidden state lacks its part through the gates.

    Args:
        functions: the backend's.
        cell: a key of `GATES`.
        slopes: the gradients of the state after the step.
        kept: what `advance` returned for it.
        state: the state before the step.
        after: an LSTM's cell state after it.
    """
    width = state[0].shape[-1]
    if cell == "lstm":
        (gates,) = kept
        of_hidden, of_memory = slopes
        enter, forget = gates[:, :width], gates[:, width : 2 * width]
        new, output = gates[:, 2 * width : 3 * width], gates[:, 3 * width :]
        curved = functions.tanh(after)
        of_memory = of_memory + of_hidden * output * (1 - curved * curved)
        of_gates = functions.concatenate(
            [
                of_memory * new * enter * (1 - enter),
                of_memory * state[1] * forget * (1 - forget),
                of_memory * enter * (1 - new * new),
                of_hidden * curved * output * (1 - output),
            ]
        )
        return of_gates, None, (None, of_memory * forget)
    (slope,) = slopes
    if cell == "gru":
        (gates,) = kept
        reset, update = gates[:, :width], gates[:, width : 2 * width]
        new, last = gates[:, 2 * width : 3 * width], gates[:, 3 * width :]
        of_new = slope * (1 - update) * (1 - new * new)
        first = [of_new * last * reset * (1 - reset), slope * (state[0] - new) * update * (1 - update)]
        projected, recurrent = ([*first, of_new], [*first, of_new * reset])
        return functions.concatenate(projected), functions.concatenate(recurrent), (slope * update,)
    (hidden,) = kept
    return (
        slope * (1 - hidden * hidden if cell == "rnn_tanh" else functions.is_positive(hidden)),
        None,
        (None,),
    )
