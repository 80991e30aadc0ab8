"""A projection to many classes and its cross-entropy in one, on a CPU within a compiled step: kernels in C++.

A block of classes at a time: its logits stay in the processor's cache from the product that makes them until their
exponentials are taken, and those of their gradients until both products that need them are done. Of the logits only
the exponentials are written, once, and read, once. The products are oneDNN's. Rows that weigh nothing cost nothing.

Reference: Wijmans et al. 2024, https://arxiv.org/abs/2411.09009, which makes the logits twice instead.
"""

from typing import Any

import torch

from kerasllm.backend.torch.kernels.built import PairKernels, numbers
from kerasllm.backend.torch.kernels.projected_sources import LOSSES, SHARED, SLOPES
from kerasllm.backend.torch.kernels.rows import check
from kerasllm.backend.torch.kernels.small_products import PRODUCTS, multiplies

MANY = 1024  # classes, from which kernels of our own are faster than what a compiler makes

KERNELS = PairKernels(PRODUCTS + SHARED)
_GIVEN = ("Value", "Value", "int64_t", "float", "int64_t", "Value", "float", "float", "Value")
KERNELS.add(
    losses=(
        (*("Value",) * 4, "int64_t", "float", "int64_t", *("float",) * 2, "Value", *("float",) * 2),
        LOSSES,
    ),
    slopes=((*_GIVEN, "Value", "Value"), "using Table = Value;" + SLOPES),
    slopes_in_float32=((*_GIVEN, "float", "Value"), "using Table = float;" + SLOPES),
)

# Operators, so that a step can be recorded.
_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define(
    "projected_losses(Tensor hidden, Tensor table, Tensor? bias, Tensor labels, Tensor? logits) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "projected_slopes(Tensor hidden, Tensor table, Tensor? bias, Tensor labels, Tensor upstream, Tensor kept, "
    "Tensor highest, Tensor found) -> (Tensor, Tensor, Tensor)"
)


def takes(hidden, table) -> bool:
    """Whether there are kernels for the product of `hidden` (rows, width) and `table` (classes, width), transposed.

    Asked in a compiled step alone.
    """
    fits = len(table) >= MANY and table.is_contiguous() and hidden.dtype == table.dtype
    if hidden.dtype == torch.bfloat16:  # two values of a row at a time
        fits = fits and hidden.shape[1] % 2 == 0
    return fits and multiplies(hidden.dtype) and KERNELS.exist_for(hidden)


def _block(width: int) -> int:
    """Classes at a time: a multiple of each processor's vectors."""
    return 256 if width <= 512 else 128 if width <= 1024 else 64


def _sizes(hidden, classes: int, *flags: Any) -> torch.Tensor:
    rows, width = hidden.shape
    return numbers(rows, width, classes, _block(width), *flags)


def _rooms(hidden, classes: int, keeps: bool = True):
    """Where exponentials, highest logits by block, and what is found of each row go."""
    rows, width = hidden.shape
    block = _block(width)
    blocks = -(-classes // block)
    kept = hidden.new_empty(blocks * rows * block if keeps else 0)
    shapes = ((blocks, rows), (3, rows))
    return kept, *(hidden.new_empty(shape, dtype=torch.float32) for shape in shapes)


def _losses(hidden, table, bias, labels, logits):
    check(labels, len(hidden), len(table))
    hidden, table, labels = (tensor.contiguous() for tensor in (hidden, table, labels))
    none = hidden.new_empty(0)
    weights = none.float()
    given = [none if tensor is None else tensor.contiguous() for tensor in (bias, logits)]
    sizes = _sizes(hidden, len(table), bias is not None, logits is not None, False, True, False)
    results = [hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(2)]
    rooms = _rooms(hidden, len(table))
    KERNELS.of(hidden.dtype).call("losses", hidden, table, *given, labels, weights, sizes, *results, *rooms)
    return *results, *rooms


def _slopes(hidden, table, bias, labels, upstream, *rooms):
    given = [tensor.contiguous() for tensor in (hidden, table, labels, upstream)]
    sizes = _sizes(hidden, len(table), bias is not None, False, True, True, False)
    results = _like(hidden, table, bias)
    of_hidden = results[0].zero_()  # of rows that weigh nothing
    KERNELS.of(hidden.dtype).call("slopes", *given, sizes, *rooms, of_hidden, *results[1:])
    return results


def _like(hidden, table, bias):
    of_bias = table.new_empty(0 if bias is None else len(bias))
    return hidden.new_empty(hidden.shape), table.new_empty(table.shape), of_bias


_library.impl("projected_losses", _losses, "CPU")
_library.impl("projected_slopes", _slopes, "CPU")


@torch.library.register_fake("kerasllm::projected_losses")
def _shapes_of_losses(hidden, table, bias, labels, logits):
    KERNELS.of(hidden.dtype).begin()
    results = [hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(2)]
    return *results, *_rooms(hidden, len(table))


@torch.library.register_fake("kerasllm::projected_slopes")
def _shapes_of_slopes(hidden, table, bias, *others):
    return _like(hidden, table, bias)


def loss_and_gradients(hidden, table, labels, weights, gradients=None, adds: bool = False):
    """The sum of weighted losses; their gradients go to or, of the table, are added to what is given for them.

    Args:
        hidden: (rows, width).
        table: (classes, width), of the same type.
        labels: int64 (rows,).
        weights: float32 (rows,).
        gradients: tensors like `hidden` and, in float32, `table`; None for no gradients.
        adds: whether that of the table is added.
    """
    check(labels, len(hidden), len(table))
    given = hidden, table, labels, weights = [
        tensor.contiguous() for tensor in (hidden, table, labels, weights.float())
    ]
    none, kernels, keeps = hidden.new_empty(0), KERNELS.of(hidden.dtype), gradients is not None
    losses, hits = (hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(2))
    rooms = _rooms(hidden, len(table), keeps)
    sizes = _sizes(hidden, len(table), False, False, True, keeps, adds)
    kernels.call("losses", hidden, table, none, none, labels, weights, sizes, losses, hits, *rooms)
    if gradients is not None:
        gradients[0].zero_()
        kernels.call("slopes_in_float32", *given, sizes, *rooms, *gradients, none)
    return losses.sum()


class ProjectedCrossEntropy(torch.autograd.Function):
    """Of hidden (rows, width), a table (classes, width), a bias (classes,) or None and labels int64 (rows,).

    The losses, and of each row whether the label's logit is the highest, as `torch_row_kernels.RowCrossEntropy` has
    them. The `logits` (rows, classes) are read if a recorded step needs them elsewhere, too; else they are never made.
    """

    @staticmethod
    def forward(ctx, hidden, table, bias, labels, logits):
        """Both float32 (rows,)."""
        losses, hits, *found = torch.ops.kerasllm.projected_losses(hidden, table, bias, labels, logits)
        ctx.save_for_backward(hidden, table, bias, labels, *found)
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    def backward(ctx, upstream, _):
        """Of hidden, table and bias."""
        hidden, table, bias, labels, *found = ctx.saved_tensors
        slopes = torch.ops.kerasllm.projected_slopes(hidden, table, bias, labels, upstream, *found)
        return *slopes[:2], None if bias is None else slopes[2], None, None
