"""Recurrences on PyTorch: its own kernels of whole layers, or a loop where a mask holds the state.

The loop is an operator of its own to autograd, as at each step of a recorded one autograd's bookkeeping takes as long
as the step. The gradient of the kernel is one product over all steps.
"""

from typing import Any

import keras
import torch

from kerasllm.backend import recurrent_cells as cells

_FUNCTIONS = cells.Functions(
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    relu=torch.relu,
    concatenate=lambda parts: torch.cat(parts, dim=-1),
    is_positive=lambda values: (values > 0).to(values.dtype),
)
_LAYERS: dict[str, Any] = {
    "lstm": torch._VF.lstm,
    "gru": torch._VF.gru,
    "rnn_tanh": torch._VF.rnn_tanh,
    "rnn_relu": torch._VF.rnn_relu,
}


def recurrence(
    cell: str,
    inputs,
    state,
    input_kernel,
    recurrent_kernel,
    input_bias,
    recurrent_bias,
    mask=None,
    reverse: bool = False,
):
    """Returns the outputs and the last state."""
    length, rows, width = inputs.shape
    kind = inputs.dtype
    weights = [
        keras.ops.convert_to_tensor(weight).to(kind)
        for weight in (input_kernel, recurrent_kernel, input_bias, recurrent_bias)
    ]
    if inputs.device.type == "meta":
        return inputs.new_empty(length, rows, weights[1].shape[-1]), state
    if mask is None and length > 1:
        return _by_layer(cell, inputs, state, weights, reverse)
    is_gru = cell == "gru"
    bias = weights[2] if is_gru else weights[2] + weights[3]
    projected = torch.addmm(bias, inputs.reshape(length * rows, width), weights[0].t())
    projected = projected.reshape(length, rows, -1).float()
    mask = None if mask is None else mask[..., None]
    recurrent_bias = weights[3].float() if is_gru else None
    parts = (part.float() for part in state)
    outputs, *last = _Loop.apply(cell, reverse, projected, weights[1], recurrent_bias, mask, *parts)
    return outputs.to(kind), tuple(last)


def _by_layer(cell: str, inputs, state, weights, reverse: bool):
    """Returns the results of PyTorch's own layer, which on a GPU is cuDNN's."""
    given = [part.to(inputs.dtype)[None] for part in state]
    inputs = inputs.flip(0) if reverse else inputs
    outputs, *last = _LAYERS[cell](
        inputs, given if cell == "lstm" else given[0], weights, True, 1, 0.0, True, False, False
    )
    return outputs.flip(0) if reverse else outputs, tuple(part[0].float() for part in last)


class _Loop(torch.autograd.Function):
    """The recurrence step by step."""

    @staticmethod
    def forward(ctx, cell, reverse, projected, kernel, bias, mask, *state):
        places = range(len(projected))
        turned = kernel.t()
        states, kept = {}, {}
        for place in reversed(places) if reverse else places:
            recurrent = torch.mm(state[0].to(kernel.dtype), turned).float()
            recurrent = recurrent if bias is None else recurrent + bias
            after, (kept[place],) = cells.advance(_FUNCTIONS, cell, projected[place], recurrent, state)
            if mask is not None:
                after = tuple(torch.where(mask[place], *pair) for pair in zip(after, state, strict=True))
            states[place, "before"], state = state, after
            states[place, "after"] = after
        ctx.save_for_backward(kernel)  # an update in place before the gradient is noticed
        ctx.kept = cell, reverse, mask, states, kept, bias is not None
        outputs = torch.stack([states[place, "after"][0] for place in places])
        # What is returned knows this function, and is not kept by it: nothing would ever let both go.
        return outputs, *(part.clone() for part in state)

    @staticmethod
    def backward(ctx, of_outputs, *slopes):
        (kernel,) = ctx.saved_tensors
        cell, reverse, mask, states, kept, has_bias = ctx.kept
        places = range(len(of_outputs))
        of_projected, of_recurrent = {}, {}
        for place in places if reverse else reversed(places):
            slopes = (slopes[0] + of_outputs[place], *slopes[1:])
            real = slopes
            if mask is not None:
                real = tuple(torch.where(mask[place], slope, 0.0) for slope in slopes)
            before, after = states[place, "before"], states[place, "after"][-1]
            own, recurrent, direct = cells.retreat(_FUNCTIONS, cell, real, (kept[place],), before, after)
            through = own if recurrent is None else recurrent
            of_projected[place], of_recurrent[place] = own, through
            of_hidden = torch.mm(through.to(kernel.dtype), kernel).float()
            found = (of_hidden if direct[0] is None else of_hidden + direct[0], *direct[1:])
            if mask is not None:
                pairs = zip(found, slopes, strict=True)
                found = tuple(new + torch.where(mask[place], 0.0, slope) for new, slope in pairs)
            slopes = found
        flat = torch.cat([of_recurrent[place] for place in places])
        hidden = torch.cat([states[place, "before"][0] for place in places])
        of_kernel = torch.mm(flat.to(kernel.dtype).t(), hidden.to(kernel.dtype))
        of_bias = flat.sum(0) if has_bias else None
        stacked = torch.stack([of_projected[place] for place in places])
        return None, None, stacked, of_kernel, of_bias, None, *slopes
