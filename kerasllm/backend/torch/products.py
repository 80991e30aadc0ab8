"""Matrix products and sums on PyTorch: on a CPU in float32 by oneDNN, without autograd and within a compiled step.

PyTorch itself takes oneDNN for bfloat16 alone. MKL, its choice for float32, takes one thread for a product of a tall
matrix with a few rows, and on AMD an older kernel for the others. On two cores of a Zen 4 a projection to GPT-2's
vocabulary takes 12.0 ms for one row and 24 for eight, by oneDNN 4.7 and 10: a third of a token of GPT-2 124M.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LINEAR: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


# Multiplications, or numbers to be summed, that take less time than a call of an operator of our own.
_SMALL = 2**15

# An operator of our own around it, as TorchScript cannot record one that takes a list of scalars.
_library = torch.library.Library("kerasllm", "DEF")
_library.define("product(Tensor left, Tensor right, Tensor? bias) -> Tensor")


def _product(left, right, bias):
    return _LINEAR(left, right, bias, "none", [], "")


_library.impl("product", _product, "CPU")


@torch.library.register_fake("kerasllm::product")
def _shape_of_product(left, right, bias):
    return left.new_empty(left.shape[0], right.shape[0])


_library.define("penalty(Tensor allowed) -> Tensor")
_library.impl("penalty", lambda allowed: allowed.logical_not().float() * -1e30, "CompositeExplicitAutograd")


@torch.library.register_fake("kerasllm::penalty")
def _shape_of_penalty(allowed):
    return allowed.new_empty(allowed.shape, dtype=torch.float32)


_library.define("sum_over_rows(Tensor rows) -> Tensor")
_library.impl("sum_over_rows", lambda rows: rows.sum(0), "CompositeExplicitAutograd")


@torch.library.register_fake("kerasllm::sum_over_rows")
def _shape_of_sum_over_rows(rows):
    return rows.new_empty(rows.shape[1])


_library.define("sum_of_rows(Tensor rows, Tensor ids, int count) -> Tensor")


def _sum_of_rows(rows, ids, count):
    return torch.ops.aten.embedding_dense_backward(rows, ids, count, -1, False)


_library.impl("sum_of_rows", _sum_of_rows, "CompositeExplicitAutograd")


@torch.library.register_fake("kerasllm::sum_of_rows")
def _shape_of_sum(rows, ids, count):
    return rows.new_empty((count, rows.shape[-1]))


_recording = False


@contextmanager
def recording() -> Iterator[None]:
    """Within, a training step is recorded, to be compiled (see `training`)."""
    global _recording
    before, _recording = _recording, True
    try:
        yield
    finally:
        _recording = before


def is_recording() -> bool:
    """Returns whether a training step is being recorded."""
    return _recording


def product_with_transpose(left, right, bias=None):
    """Returns (rows, in) @ (out, in).T plus bias (out,), through which no gradient flows.

    Args:
        left: floating, of the type of `right`; either may be a view.
        right: (out, in).
        bias: None for none.
    """
    by_onednn = _LINEAR is not None and left.device.type == "cpu" and left.dtype == torch.float32
    if not by_onednn or left.shape[0] * left.shape[1] * right.shape[0] <= _SMALL:
        return torch.nn.functional.linear(left, right, bias)
    return torch.ops.kerasllm.product(_compact(left), _compact(right), bias)


def _compact(matrix):
    """Returns `matrix`, or a copy of a part of a wider one, for which oneDNN would take a thousand times as long."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def _over_rows(matrix):
    """Returns the sum over the rows, on a CPU by PyTorch's own kernel: the compiler's goes down each column."""
    by_torch = matrix.device.type == "cpu" and matrix.numel() > _SMALL
    return torch.ops.kerasllm.sum_over_rows(matrix) if by_torch else matrix.sum(0)


class Dense(torch.autograd.Function):
    """`inputs @ kernel + bias` with products by oneDNN, gradients included, within a recorded step.

    The shapes are (rows, in), (in, out) and (out,); the bias may be None.
    """

    @staticmethod
    def forward(ctx, inputs, kernel, bias):
        """Returns the product."""
        ctx.save_for_backward(inputs, kernel)
        ctx.with_bias = bias is not None
        return product_with_transpose(inputs, kernel.t(), bias)

    @staticmethod
    def backward(ctx, upstream):
        """Returns the gradients of inputs, kernel and bias."""
        inputs, kernel = ctx.saved_tensors
        of_inputs = product_with_transpose(upstream, kernel)
        if kernel.t().is_contiguous():  # a table of (out, in), whose gradient is to lie as it does
            of_kernel = torch.mm(upstream.t(), inputs).t()
        else:
            of_kernel = torch.mm(inputs.t(), upstream)
        return of_inputs, of_kernel, _over_rows(upstream) if ctx.with_bias else None


class TakeRows(torch.autograd.Function):
    """Rows of a table (count, width) by numbers, any shape, whose gradient is summed in one order.

    Compiled code would have two threads add to a row as it comes: the same step would give other bits each time.
    """

    @staticmethod
    def forward(ctx, table, ids):
        """Returns the rows."""
        ctx.save_for_backward(ids)
        ctx.count = table.shape[0]
        return torch.nn.functional.embedding(ids, table)

    @staticmethod
    def backward(ctx, upstream):
        """Returns the gradient of the table."""
        # In float32: a token that stands in thousands of places would soon add nothing in bfloat16.
        rows = upstream.float().contiguous()
        total = torch.ops.kerasllm.sum_of_rows(rows, ctx.saved_tensors[0], ctx.count)
        return total.to(upstream.dtype), None
