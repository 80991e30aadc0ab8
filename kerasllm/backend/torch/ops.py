"""PyTorch's operators: its fused kernels, called directly; Keras' wrappers cost more than a small model's kernels."""

import keras
import torch
from torch.nn import functional

from kerasllm.backend.formulas import rms_norm as _rms_norm
from kerasllm.backend.formulas import rotate  # noqa: F401
from kerasllm.backend.hashing import draws, least_kept
from kerasllm.backend.torch.parts import boundary  # noqa: F401
from kerasllm.backend.torch.products import Dense, TakeRows, is_recording, product_with_transpose

# Up to so many keys a compiled step on a CPU is faster with the probabilities in memory, where the compiler fuses what
# is done to them: forward and backward, 128 keys in bfloat16, 8.7 ms against the fused kernel's 32.
_SHORT = 512


def attention(query, key, value, *, mask=None, is_causal: bool = False, dropout_rate: float = 0.0, seed=None):
    """Returns attention, by PyTorch's fused kernel where that is faster and nothing is dropped."""
    on_cpu = query.device.type == "cpu"
    is_short = on_cpu and key.shape[-2] <= _SHORT and is_recording()
    is_decoding = not on_cpu and query.ndim == 3  # is traced, which a GPU's fused kernels cannot be
    if dropout_rate or is_short or is_decoding:
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
        probabilities = dropout(_masked_softmax(scores, mask, is_causal), dropout_rate, seed)
        return torch.matmul(probabilities.to(value.dtype), value)
    if mask is not None and is_causal:
        mask, is_causal = mask & _causal(query.shape[-2], key.shape[-2], query.device), False
    if query.ndim == 3:  # for three axes there is no fused kernel
        mask = None if mask is None else mask[None]
        return functional.scaled_dot_product_attention(
            query[None], key[None], value[None], attn_mask=mask, is_causal=is_causal
        )[0]
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)


def _masked_softmax(scores, mask, is_causal: bool):
    """Returns the softmax of the masked scores, float32 (batch, heads, queries, keys)."""
    scores = scores.float()
    if is_causal:
        scores = scores + _penalty(_causal(scores.shape[-2], scores.shape[-1], scores.device))
    if mask is not None:
        scores = scores + _penalty(mask)
    return torch.softmax(scores, dim=-1)


def _causal(queries: int, keys: int, device):
    rows, columns = (torch.arange(count, device=device) for count in (queries, keys))
    return rows[:, None] + (keys - queries) >= columns


def _penalty(allowed):
    """Returns 0 where attention is allowed, elsewhere a number beside which no score counts.

    This is an operator that the compiler leaves alone: it would work the mask out anew for each score, which takes
    longer than the softmax.
    """
    return torch.ops.kerasllm.penalty(allowed)


def dropout(inputs, rate: float, seed):
    """Returns `inputs` with dropout."""
    if not rate:
        return inputs
    stays = (1 + ((draws(inputs.shape, seed) - least_kept(rate)) >> 31)).to(torch.uint8)
    return _Dropout.apply(inputs, stays, 1 - rate)


class _Dropout(torch.autograd.Function):
    """Dropout that keeps a byte an element for the gradient.

    Compiled code on a CPU takes ten times as long to read or write a boolean as a byte.
    """

    @staticmethod
    def forward(ctx, inputs, stays, kept):
        ctx.save_for_backward(stays)
        ctx.kept = kept
        return inputs / kept * stays.to(inputs.dtype)

    @staticmethod
    def backward(ctx, upstream):
        (stays,) = ctx.saved_tensors
        return upstream / ctx.kept * stays.to(upstream.dtype), None, None


def add_dropout(hidden, branch, rate: float, seed):
    """Returns `hidden` plus the branch with dropout."""
    return hidden + dropout(branch, rate, seed)


def activation(inputs, name: str):
    """Returns the activation."""
    if name in ("gelu", "gelu_tanh"):
        return functional.gelu(inputs, approximate="tanh" if name == "gelu_tanh" else "none")
    return keras.activations.get(name)(inputs)


def layer_norm(inputs, scale, bias, epsilon: float):
    """Returns the layer normalization."""
    scale, bias = _in_float32(scale), _in_float32(bias)
    return functional.layer_norm(inputs.float(), scale.shape, scale, bias, epsilon).to(inputs.dtype)


def _in_float32(weight):
    return None if weight is None else keras.ops.convert_to_tensor(weight).float()


def rms_norm(inputs, scale, epsilon: float):
    """Returns the normalization by the root mean square."""
    return _rms_norm(inputs, keras.ops.convert_to_tensor(scale), epsilon)


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """Returns the product, by oneDNN without gradients and in a compiled step."""
    kernel = _tensor(kernel, inputs.dtype)
    kernel = kernel.t() if transposed else kernel
    bias = None if bias is None else _tensor(bias, inputs.dtype)
    if not torch.is_grad_enabled():
        return product_with_transpose(inputs, kernel.t(), bias)
    if is_recording():
        return Dense.apply(inputs, kernel, bias)
    return torch.mm(inputs, kernel) if bias is None else torch.addmm(bias, inputs, kernel)


def _tensor(value, dtype):
    # A variable's own value, without the walk through Keras' conversions.
    return (value.value if isinstance(value, keras.Variable) else value).to(dtype)


def matrix_product(left, right):
    """Returns the product."""
    return product_with_transpose(left, right.t())


def split(inputs, sizes: tuple[int, ...], axis: int):
    """Returns the parts; Keras' own `split` would read the sizes as values of a tensor."""
    return torch.split(inputs, list(sizes), dim=axis)


def take_rows(table, ids):
    """Returns the rows, with a gradient that is summed in one order."""
    if not isinstance(table, keras.Variable):
        return TakeRows.apply(keras.ops.convert_to_tensor(table), ids)
    return TakeRows.apply(_in_own_type(table), ids).to(getattr(torch, table.dtype))


def _in_own_type(variable):
    """Returns its value without the cast of mixed precision, which would copy a whole table for some of its rows."""
    casts, variable._autocast = variable._autocast, False
    try:
        return variable.value
    finally:
        variable._autocast = casts


def take_positions(hidden, positions):
    """Returns what stands at the positions, by an operator that ONNX has, too."""
    return torch.gather(hidden, 1, positions.long()[:, :, None].expand(-1, -1, hidden.shape[-1]))


def write_slice(cache, value, position):
    """Returns the cache with `value` written in place."""
    if isinstance(position, int):
        cache[:, position : position + value.shape[1]] = value
        return cache
    if position.ndim:
        rows = torch.arange(len(cache), device=cache.device)
        return cache.index_put_((rows, position), value[:, 0].to(cache.dtype))
    columns = position + torch.arange(value.shape[1], device=cache.device)  # asks nothing of the device
    return cache.index_copy_(1, columns, value)


def fill_rows(variable, parts):
    """Fills the variable in place."""
    start = 0
    with torch.no_grad():
        for part in parts:
            variable.value[start : start + len(part)].copy_(torch.from_numpy(part))
            start += len(part)


def is_symbolic(tensor, axis: int) -> bool:
    """Returns whether the tensor has no values, as where Keras tries a model with lengths that it makes up."""
    return tensor.device.type == "meta"
