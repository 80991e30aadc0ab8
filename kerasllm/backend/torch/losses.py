"""Cross-entropy for PyTorch; also in one with the projection to the vocabulary, a chunk of tokens at a time."""

import functools
import weakref
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from kerasllm.backend.torch.kernels import projected_losses as projected
from kerasllm.backend.torch.kernels import rows as row_kernels
from kerasllm.backend.torch.kernels.built import pairs
from kerasllm.backend.torch.products import is_recording, product_with_transpose, projection_of

_HITS = "_kerasllm_hits"


def cross_entropy(labels, logits):
    """The cross-entropy of each label, float32 in nats: int32 (...), logits (..., classes) → (...)."""
    if is_recording() and logits.requires_grad:
        found = _by_kernels(labels.reshape(-1).long(), logits) if logits.shape[-1] >= projected.MANY else None
        if found is None:
            return _CrossEntropy.apply(logits, labels.long()[..., None])
        losses, hits = (some.reshape(labels.shape) for some in found)
        setattr(losses, _HITS, hits)  # for `remember_losses`
        return losses
    scores = logits.float()
    chosen = scores.gather(-1, labels.long()[..., None])[..., 0]
    return torch.logsumexp(scores, dim=-1) - chosen


def _by_kernels(labels, logits):
    """Losses and hits, by kernels that take the projection in, if that is what the logits are, or the logits."""
    projection = projection_of(logits)
    if projection is not None:
        hidden, kernel, bias, product = projection
        if projected.takes(hidden, kernel.t()):
            return projected.ProjectedCrossEntropy.apply(hidden, kernel.t(), bias, labels, product.detach())
    if pairs.exist_for(logits):
        return row_kernels.RowCrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), labels)
    return None


class _CrossEntropy(torch.autograd.Function):
    """Keeps the numerators of the probabilities, in the logits' type: that of their gradient, too."""

    @staticmethod
    def forward(ctx, logits, labels):
        scores = logits.float()
        highest = scores.amax(-1, keepdim=True)
        numerators = (scores - highest).exp()
        total = numerators.sum(-1, keepdim=True)
        ctx.save_for_backward(numerators.to(logits.dtype), total, labels)
        chosen = scores.gather(-1, labels)
        return (highest + total.log() - chosen)[..., 0]

    @staticmethod
    def backward(ctx, upstream):
        numerators, total, labels = ctx.saved_tensors
        upstream = upstream[..., None]
        probabilities = numerators.float() * (upstream / total)
        is_label = torch.arange(numerators.shape[-1], device=labels.device) == labels
        return torch.where(is_label, probabilities - upstream, probabilities).to(numerators.dtype), None


_found: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember_losses(labels, logits, losses) -> None:
    """Keeps the cross-entropies for a metric of the same step, with the logits and as long as they live."""
    if isinstance(logits, torch.Tensor):
        _found[logits] = (weakref.ref(labels), losses.detach(), getattr(losses, _HITS, None))


def recall_losses(labels, logits):
    """What `remember_losses` was given for these very tensors, cut off from the gradient; else None."""
    return _recall(labels, logits)[0]


def recall_hits(labels, logits):
    """The hits that the kernel found which computed the cross-entropies of these very tensors; else None."""
    return _recall(labels, logits)[1]


def _recall(labels, logits):
    none = (lambda: None, None, None)
    known, *found = _found.get(logits, none) if isinstance(logits, torch.Tensor) else none
    return found if known() is labels else (None, None)


def linear_cross_entropy(hidden, table, labels, weights, chunk_size: int, differentiable: bool = True):
    """The weighted sum of the cross-entropies of `labels` under the logits `hidden @ table.T`.

    Only one chunk of logits exists at a time. Where a gradient is asked for, the chunk's share of it is taken
    while its logits are there, so that they need not be made twice.

    Args:
        hidden: (tokens, hidden_dim).
        table: (vocabulary, hidden_dim).
        labels: int (tokens,).
        weights: float32 (tokens,); no gradient flows to them.
        chunk_size: tokens at a time.
        differentiable: whether gradients may be asked for.

    Returns:
        A float32 scalar in nats.
    """
    differentiable = differentiable and torch.is_grad_enabled()
    return _Chunked.apply(hidden, table, labels.long(), weights, chunk_size, differentiable, is_recording())


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, table, labels, weights, chunk_size, differentiable, compiled):
        run = torch.ops.kerasllm.chunked_cross_entropy
        total, *gradients = run(hidden, table, labels, weights, chunk_size, differentiable, compiled)
        if differentiable:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx, upstream):
        of_hidden, of_table = ctx.saved_tensors
        rest = [None] * 5
        return of_hidden * upstream.to(of_hidden.dtype), of_table * upstream, *rest


# An operator of our own, so that a compiled step holds the loop as one call, not all its chunks in a row.
_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define(
    "chunked_cross_entropy(Tensor hidden, Tensor table, Tensor labels, Tensor weights, int chunk_size, "
    "bool differentiable, bool compiled) -> (Tensor, Tensor, Tensor)"
)


def _run(hidden, table, labels, weights, chunk_size, differentiable, compiled):
    """The loss, and its gradients of `hidden` and `table`, which are empty if none are asked for."""
    matrix = table.to(hidden.dtype)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    of_hidden = torch.empty_like(hidden) if differentiable else hidden.new_empty(0)
    of_table = table.new_empty(0)
    if differentiable:
        of_table = (table.new_empty if len(hidden) else table.new_zeros)(table.shape)
    is_step = compiled and not is_recording()
    by_kernels = is_step and table.dtype == torch.float32 and projected.takes(hidden, matrix)
    slopes, add = _functions(hidden, table) if is_step and not by_kernels else (_slopes, torch.Tensor.add_)
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        part = hidden[chunk]
        if by_kernels:
            gradients = (of_hidden[chunk], of_table) if differentiable else None
            total += projected.loss_and_gradients(
                part, matrix, labels[chunk], weights[chunk], gradients, start > 0
            )
            continue
        loss, slope = slopes(product_with_transpose(part, matrix), labels[chunk], weights[chunk])
        total += loss
        if differentiable:
            of_hidden[chunk] = product_with_transpose(slope, matrix.t())
            if start == 0:
                of_table.copy_(slope.t() @ part)
            elif table.dtype == hidden.dtype:
                of_table.addmm_(slope.t(), part)
            else:
                add(of_table, slope.t() @ part)
    return total, of_hidden, of_table


_library.impl("chunked_cross_entropy", _run, "CompositeExplicitAutograd")


@torch.library.register_fake("kerasllm::chunked_cross_entropy")
def _shapes(hidden, table, labels, weights, chunk_size, differentiable, compiled):
    if compiled and table.dtype == torch.float32 and pairs.exist_for(hidden):
        by_projection = projected.takes(hidden, table.to(hidden.dtype))
        (projected.KERNELS if by_projection else pairs).of(hidden.dtype).begin()
    total = torch.empty((), dtype=torch.float32, device=hidden.device)
    if not differentiable:
        return total, hidden.new_empty(0), table.new_empty(0)
    return total, torch.empty_like(hidden), table.new_empty(table.shape)


def _slopes(logits, labels, weights):
    """The loss of a chunk, and its gradient of the logits, in their type."""
    scores = torch.log_softmax(logits, dim=-1, dtype=torch.float32)  # makes no copy in float32 first
    losses = -scores.gather(1, labels[:, None])[:, 0] * weights
    slope = scores.exp_()  # now the probabilities
    slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
    return losses.masked_fill(weights == 0, 0.0).sum(), slope.mul_(weights[:, None]).to(logits.dtype)


def _functions(hidden, table) -> Any:
    """What takes the place of `_slopes` and of adding to a table in a compiled step."""
    if pairs.exist_for(hidden) and table.dtype == torch.float32:
        return row_kernels.losses_and_slopes, row_kernels.add
    return _compiled()


@functools.cache
def _compiled():
    """`_slopes` without what in-place operations save: a compiler reads the logits twice and writes once.

    And the sum of a table in float32 and one in bfloat16, of which torch itself first makes a copy in float32.
    """

    def slopes(logits, labels, weights):
        scores = logits.float()
        normalizer = torch.logsumexp(scores, dim=-1)
        losses = (normalizer - scores.gather(1, labels[:, None])[:, 0]) * weights
        probabilities = torch.exp(scores - normalizer[:, None])
        is_label = torch.arange(logits.shape[-1], device=logits.device)[None] == labels[:, None]
        slope = torch.where(is_label, probabilities - 1, probabilities) * weights[:, None]
        return losses.masked_fill(weights == 0, 0.0).sum(), slope.to(logits.dtype)

    def add(total, share):
        total.add_(share)

    return [torch.compile(function, fullgraph=True, dynamic=False) for function in (slopes, add)]
