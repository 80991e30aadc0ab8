"""Self-attention on a CPU within a compiled step: a kernel of our own, in C++.

A few rows of a head's scores stay in the processor's cache from the product that makes them to the one that uses them;
those which a causal mask hides are not made, and dropout's draws not kept. The products are oneDNN's. Forward and
backward, (batch, heads, positions, head_dim) in bfloat16, two cores with AVX512: (8, 6, 256, 64) causal, 6 ms against
27 by torch's own fused kernel; (1, 6, 2048, 64) 38 against 83.
"""

import torch

from kerasllm.backend.torch.kernels.attention_sources import BACKWARD, FORWARD, SHARED
from kerasllm.backend.torch.kernels.built import PairKernels, empty_as, numbers
from kerasllm.backend.torch.kernels.column_sums import COLUMN_SUMS
from kerasllm.backend.torch.kernels.small_products import PRODUCTS, multiplies

_LONGEST, _WIDEST = 4096, 256  # positions and head_dim: beyond, what is to stay in the cache would not

_KERNELS = PairKernels(PRODUCTS + COLUMN_SUMS + SHARED)
_KERNELS.add(
    forward=(("Value", "bool", "int64_t", "int64_t", "float", "Value", "float"), FORWARD),
    backward=(
        ("Value", "bool", "int64_t", "int64_t", "float", "Value", "float", "Value", "Value", "float"),
        BACKWARD,
    ),
)

# The compiler's cache on disk tells operators by their names alone: one that returns something else needs another.
_SETTINGS = "int num_heads, Tensor? mask, bool is_causal, Tensor? seed, int least, float kept"
_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define(f"attention(Tensor projected, {_SETTINGS}) -> (Tensor, Tensor)")
_library.define(
    f"attention_slopes(Tensor projected, {_SETTINGS}, Tensor attended, Tensor normalizers, Tensor upstream)"
    " -> (Tensor, Tensor)"
)


def _arguments(
    projected, num_heads: int, mask, is_causal: bool, seed, least: int, kept: float, is_backward: bool
):
    batch, length, width = projected.shape
    if mask is None:
        masks, strides = projected.new_empty(0, dtype=torch.bool), [0, 0]
    else:
        masks = mask.expand(mask.shape[0], 1, mask.shape[2], length)
        if is_backward and mask.shape[2] > 1:
            masks = masks.transpose(2, 3)
        masks = masks.contiguous()
        strides = [0 if masks.shape[axis] == 1 else masks.stride(axis) for axis in (0, 2)]
    sizes = (batch, num_heads, length, width // (3 * num_heads), is_causal, mask is not None, *strides, least)
    seeds = numbers(0, 0) if seed is None else seed.long().contiguous()
    rest = numbers(kept, dtype=torch.float32)
    return projected.contiguous(), masks, numbers(*sizes), seeds, rest


def _forward(projected, num_heads, mask, is_causal, seed, least, kept):
    batch, length, width = projected.shape
    attended = projected.new_empty(batch, length, width // 3)
    normalizers = projected.new_empty(batch, num_heads, length, 2, dtype=torch.float32)
    arguments = _arguments(projected, num_heads, mask, is_causal, seed, least, kept, is_backward=False)
    _KERNELS.of(projected.dtype).call("forward", *arguments, attended, normalizers)
    return attended, normalizers


def _backward(projected, num_heads, mask, is_causal, seed, least, kept, *tensors):
    slopes, sums = _shapes_of_slopes(projected)
    arguments = _arguments(projected, num_heads, mask, is_causal, seed, least, kept, is_backward=True)
    given = (tensor.contiguous() for tensor in tensors)
    _KERNELS.of(projected.dtype).call("backward", *arguments, *given, slopes, sums)
    return slopes, sums


def _shapes_of_slopes(projected, *settings_and_tensors):
    """Of the gradient of the projections, and its sums over the rows."""
    width = projected.shape[-1]
    return empty_as(projected), projected.new_empty((width,), dtype=torch.float32)


_library.impl("attention", _forward, "CPU")
_library.impl("attention_slopes", _backward, "CPU")
torch.library.register_fake("kerasllm::attention_slopes", _shapes_of_slopes)


@torch.library.register_fake("kerasllm::attention")
def _shapes(projected, num_heads, *settings):
    _KERNELS.of(projected.dtype).begin()
    batch, length, width = projected.shape
    normalizers = projected.new_empty(batch, num_heads, length, 2, dtype=torch.float32)
    return projected.new_empty(batch, length, width // 3), normalizers


def takes(projected, num_heads: int, mask) -> bool:
    """Whether the kernel can compute this attention. Asked in a compiled step alone."""
    _, length, width = projected.shape
    head_dim = width // (3 * num_heads)
    fits = length <= _LONGEST and head_dim <= _WIDEST and multiplies(projected.dtype)
    if projected.dtype == torch.bfloat16:  # two values of a head at a time
        fits = fits and head_dim % 2 == 0
    one_mask = mask is None or (mask.ndim == 4 and mask.shape[1] == 1 and mask.dtype == torch.bool)
    return fits and one_mask and _KERNELS.exist_for(projected)


class SelfAttention(torch.autograd.Function):
    """Of projections (batch, length, 3 * hidden_dim), those of queries, keys and values side by side.

    Returns (batch, length, hidden_dim), the heads side by side. The mask, if any, is boolean and broadcastable to
    (batch, 1, length, length), True where attention is allowed. Probabilities of which the draw, by the `seed` (2,) as
    `kerasllm.layers.dropout` makes it, is below `least` are dropped, the others divided by `kept`; none without a seed.
    For the gradient they are made once more.

    Reference: Dao et al. 2022, https://arxiv.org/abs/2205.14135, section 3.1.
    """

    @staticmethod
    def forward(ctx, projected, num_heads, mask, is_causal, seed=None, least=0, kept=1.0):
        """See the class."""
        settings = num_heads, mask, is_causal, seed, least, kept
        attended, normalizers = torch.ops.kerasllm.attention(projected, *settings)
        ctx.save_for_backward(projected, attended, normalizers, mask, seed)
        ctx.settings = num_heads, is_causal, least, kept
        return attended

    @staticmethod
    def backward(ctx, upstream):
        """Of the projections."""
        projected, attended, normalizers, mask, seed = ctx.saved_tensors
        num_heads, is_causal, least, kept = ctx.settings
        slopes, _ = torch.ops.kerasllm.attention_slopes(
            projected, num_heads, mask, is_causal, seed, least, kept, attended, normalizers, upstream
        )
        return slopes, None, None, None, None, None, None
