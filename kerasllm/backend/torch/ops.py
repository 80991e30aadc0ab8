"""PyTorch: its own fused kernels, called directly; Keras' wrappers cost more than the kernels of a small model."""

import keras
import torch
from torch.nn import functional

from kerasllm.backend.torch.kernels.attention import SelfAttention, takes
from kerasllm.backend.torch.kernels.built import pairs
from kerasllm.backend.torch.kernels.gelu import Gelu
from kerasllm.backend.torch.kernels.layer_norm import LayerNorm, SumAndNorm
from kerasllm.backend.torch.losses import recall_losses, remember_losses  # noqa: F401
from kerasllm.backend.torch.parts import boundary  # noqa: F401
from kerasllm.backend.torch.products import TakeRows, is_recording, product_with_transpose, recorded_product
from kerasllm.backend.torch.training import can_compile, compiled_step, on_device  # noqa: F401

jit_compile = False  # takes four to twenty seconds: see `kerasllm.training.hardware.compilation`


# Up to so many keys a CPU is faster with the probabilities in memory, where a compiler fuses what is done to them:
# forward and backward, 128 keys in bfloat16, 8.7 ms against the fused kernel's 32.
_SHORT = 512


def version() -> str:
    """The backend's version."""
    return torch.__version__


def libraries() -> list[str]:
    """Packages beside PyTorch that a training step computes with: none."""
    return []


def attention(query, key, value, mask=None, is_causal: bool = False):
    """Scaled dot-product attention, (batch, heads, length, head_dim) in and out; both first axes may be one.

    Args:
        query, key, value: the same floating type.
        mask: boolean, broadcastable to (batch, heads, queries, keys), True where attention is allowed.
        is_causal: a query sees no later key.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.1.
    """
    on_cpu = query.device.type == "cpu"
    is_short = on_cpu and key.shape[-2] <= _SHORT and is_recording()
    is_decoding = not on_cpu and query.ndim == 3  # is traced, which a GPU's fused kernels cannot be
    if is_short or is_decoding:
        probabilities = masked_softmax(attention_scores(query, key), mask, is_causal)
        return attend(probabilities.to(value.dtype), value)
    if mask is not None and is_causal:
        mask, is_causal = mask & _causal(query.shape[-2], key.shape[-2], query.device), False
    if query.ndim == 3:  # for three axes there is no fused kernel
        mask = None if mask is None else mask[None]
        return functional.scaled_dot_product_attention(
            query[None], key[None], value[None], attn_mask=mask, is_causal=is_causal
        )[0]
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)


def self_attention(
    query_key_value,
    num_heads: int,
    mask=None,
    is_causal: bool = False,
    rate: float = 0.0,
    seed_generator=None,
):
    """Self-attention of (batch, length, 3 * hidden_dim), or None where its parts do as well.

    Args:
        query_key_value: the projections side by side.
        num_heads: hidden_dim divides by it.
        mask, is_causal: see `attention`.
        rate: of the probabilities that are dropped.
        seed_generator: for these; not asked where None is returned.
    """
    if not is_recording() or not query_key_value.requires_grad or not takes(query_key_value, num_heads, mask):
        return None
    if rate == 0:
        return SelfAttention.apply(query_key_value, num_heads, mask, is_causal)
    seed = seed_generator.next()
    return SelfAttention.apply(query_key_value, num_heads, mask, is_causal, seed, int(rate * 2**31), 1 - rate)


def attend(probabilities, value):
    """The values (batch, heads, keys, head_dim) in sums weighted by (batch, heads, queries, keys)."""
    return torch.matmul(probabilities, value)


def attention_scores(query, key):
    """The scaled scores (batch, heads, queries, keys)."""
    return torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))


def masked_softmax(scores, mask=None, is_causal: bool = False):
    """The softmax of the masked scores, float32 (batch, heads, queries, keys)."""
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
    """0 where attention is allowed, elsewhere a number beside which no score counts.

    By an operator that a compiler leaves alone: it would work the mask out anew for each score, which takes longer
    than the softmax.
    """
    return torch.ops.kerasllm.penalty(allowed)


def fuse(function, *tensors, **settings):
    """`function(*tensors, **settings)`: a step that is compiled is compiled whole."""
    return function(*tensors, **settings)


def recorded_once(function):
    """The function as it is: a recorded step holds plain operators alone."""
    return function


def drop(inputs, draws, least: int, kept: float):
    """`inputs` / `kept` where the `draws`, int32 from 0 on and of the same shape, are `least` or more; elsewhere 0."""
    return _Drop.apply(inputs, (1 + ((draws - least) >> 31)).to(torch.uint8), kept)


class _Drop(torch.autograd.Function):
    """Dropout that keeps a byte an element for the gradient.

    Compiled code on a CPU takes ten times as long to read or write a boolean as a byte.
    """

    @staticmethod
    def forward(ctx, inputs, stays, kept):
        ctx.save_for_backward(stays)
        ctx.kept = kept
        return inputs / kept * stays.to(inputs.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (stays,) = ctx.saved_tensors
        return gradient / ctx.kept * stays.to(gradient.dtype), None, None


def gelu(inputs, approximate: bool = False):
    """The exact one (erf), or its approximation by tanh, in float32 in between.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    if is_recording() and inputs.requires_grad and pairs.exist_for(inputs):
        return Gelu.apply(inputs, approximate)
    return functional.gelu(inputs, approximate="tanh" if approximate else "none")


def layer_norm(inputs, scale, bias, epsilon: float):
    """Layer normalisation over the last axis, computed in float32; without a bias where that is None.

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """
    scale, bias = _in_float32(scale), _in_float32(bias)
    if is_recording() and inputs.requires_grad and pairs.exist_for(inputs):
        return LayerNorm.apply(inputs, scale, bias, epsilon)
    return functional.layer_norm(inputs.float(), scale.shape, scale, bias, epsilon).to(inputs.dtype)


def sum_and_norm(hidden, branch, scale, bias, epsilon: float, rate: float, seed_generator):
    """`hidden + dropout(branch)` and its `layer_norm`, or None where its parts do as well.

    Args:
        hidden, branch: (..., width).
        scale, bias, epsilon: see `layer_norm`.
        rate: of the branch that is dropped.
        seed_generator: for that; not asked where None is returned.
    """
    if not is_recording() or not branch.requires_grad or not pairs.exist_for(branch):
        return None
    if hidden.dtype != branch.dtype or hidden.shape != branch.shape:
        return None
    seed = seed_generator.next() if rate else None
    dropout = seed, int(rate * 2**31), 1 - rate
    return SumAndNorm.apply(hidden, branch, *dropout, _in_float32(scale), _in_float32(bias), epsilon)


def _in_float32(weight):
    return None if weight is None else keras.ops.convert_to_tensor(weight).float()


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """(rows, in) @ kernel (in, out), plus bias (out,) if there is one; Keras variables or tensors.

    A `transposed` kernel is (out, in).
    """
    kernel = _tensor(kernel, inputs.dtype)
    kernel = kernel.t() if transposed else kernel
    bias = None if bias is None else _tensor(bias, inputs.dtype)
    if not torch.is_grad_enabled():
        return product_with_transpose(inputs, kernel.t(), bias)
    if is_recording():
        return recorded_product(inputs, kernel, bias)
    return torch.mm(inputs, kernel) if bias is None else torch.addmm(bias, inputs, kernel)


def _tensor(value, dtype):
    # A variable's own value, without the walk through Keras' conversions.
    return (value.value if isinstance(value, keras.Variable) else value).to(dtype)


def matrix_product(left, right):
    """`left @ right` of two matrices, made as in a training step."""
    return product_with_transpose(left, right.t())


def split(inputs, sizes: tuple[int, ...], axis: int):
    """Parts of `inputs`, `sizes` wide each, along an axis; Keras' own would read the sizes as values of a tensor."""
    return torch.split(inputs, list(sizes), dim=axis)


def take_rows(table, ids):
    """The rows of a table (rows, hidden_dim) at `ids`, any shape; a Keras variable or array."""
    if not isinstance(table, keras.Variable):
        return TakeRows.apply(keras.ops.convert_to_tensor(table), ids)
    return TakeRows.apply(_in_own_type(table), ids).to(getattr(torch, table.dtype))


def _in_own_type(variable):
    """Its value without the cast of mixed precision, which would copy a whole table for some of its rows."""
    casts, variable._autocast = variable._autocast, False
    try:
        return variable.value
    finally:
        variable._autocast = casts


def write_slice(cache, value, position):
    """Writes `value` into the cache (batch * heads, capacity, head_dim) at column `position` and after, in place."""
    if isinstance(position, int):
        cache[:, position : position + value.shape[1]] = value
        return cache
    columns = position + torch.arange(value.shape[1], device=cache.device)  # asks nothing of the device
    return cache.index_copy_(1, columns, value)


def fill_rows(variable, parts):
    """Fills a Keras variable with its rows, NumPy parts of them one after another, in place."""
    start = 0
    with torch.no_grad():
        for part in parts:
            variable.value[start : start + len(part)].copy_(torch.from_numpy(part))
            start += len(part)


def fence(inputs):
    """Nothing: only XLA on JAX's CPU needs it."""
    return inputs


def per_step_metrics(model, train_step, data):
    """Runs `train_step` with every metric reset first: the logs are this batch's, not a running mean."""
    model.reset_metrics()
    return train_step(data)


def make_train_function(model, make):
    """Keras' own, `make()`."""
    make()


def evaluation_step(model, test_step, data):
    """Keras' own step, with the data where the weights are."""
    return test_step(on_device(data))


def get_random_state() -> bytes | None:
    """The states of torch's global generators, of the CPU and, where there is one, of the GPU."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states).numpy().tobytes()


def set_random_state(state: bytes | None) -> None:
    """Restores what `get_random_state` returned; a state from another backend is None and is left out.

    So is that of a GPU where there is none; from a machine without one, the GPU's stays as it is.
    """
    if state is None:
        return
    whole = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    size = len(torch.get_rng_state())
    torch.set_rng_state(whole[:size])
    if len(whole) > size and torch.cuda.is_available():
        torch.cuda.set_rng_state(whole[size:])
