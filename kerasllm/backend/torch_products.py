"""Matrix products for PyTorch: without autograd, and within a compiled step, on a CPU in float32 by oneDNN.

torch itself takes oneDNN for bfloat16 alone. MKL, its choice for float32, takes one thread for
a product of a tall matrix with a few rows, and on AMD an older kernel for the others: projections to a vocabulary
took 1.3 to 2.7 times as long (measured on 2 cores).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LINEAR: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)

_WIDE = 8192  # outputs from which on oneDNN is faster at a kernel's gradient too

# An operator of our own around it, as TorchScript cannot record one that takes a list of scalars.
_library = torch.library.Library("kerasllm", "DEF")
_library.define("product(Tensor left, Tensor right, Tensor? bias) -> Tensor")


def _product(left, right, bias):
    return _LINEAR(left, right, bias, "none", [], "")


_library.impl("product", _product, "CPU")


@torch.library.register_fake("kerasllm::product")
def _shape_of_product(left, right, bias):
    return left.new_empty(left.shape[0], right.shape[0])


_recording = False


@contextmanager
def recording() -> Iterator[None]:
    """While a training step is recorded, to be compiled (see `torch_training`)."""
    global _recording
    before, _recording = _recording, True
    try:
        yield
    finally:
        _recording = before


def is_recording() -> bool:
    """Whether a training step is being recorded."""
    return _recording


def product_with_transpose(left, right, bias=None):
    """(rows, in) @ (out, in).T plus bias (out,); no gradient flows through it.

    Args:
        left: floating, of the type of `right`; either may be a transposed view.
        right: (out, in).
        bias: None for none.
    """
    if _LINEAR is None or left.dtype != torch.float32 or left.device.type != "cpu":
        return torch.nn.functional.linear(left, right, bias)
    return torch.ops.kerasllm.product(left, right, bias)


class Dense(torch.autograd.Function):
    """`inputs @ kernel + bias` by the above, gradients included; for (rows, in), (in, out) and (out,) or None."""

    @staticmethod
    def forward(ctx, inputs, kernel, bias):
        """The product."""
        ctx.save_for_backward(inputs, kernel)
        ctx.with_bias = bias is not None
        return product_with_transpose(inputs, kernel.t(), bias)

    @staticmethod
    def backward(ctx, upstream):
        """Of inputs, kernel and bias."""
        inputs, kernel = ctx.saved_tensors
        of_inputs = product_with_transpose(upstream, kernel)
        if kernel.shape[1] > _WIDE:
            of_kernel = product_with_transpose(inputs.t(), upstream.t())
        else:
            of_kernel = torch.mm(inputs.t(), upstream)
        return of_inputs, of_kernel, upstream.sum(0) if ctx.with_bias else None
