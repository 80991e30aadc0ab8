"""Cross-entropy on PyTorch; also in one with the projection to the vocabulary, a chunk of tokens at a time."""

import functools

import torch

from kerasllm.backend.formulas import hits  # noqa: F401
from kerasllm.backend.torch.products import Dense, is_recording, product_with_transpose

_FEW = 2**17  # logits, which are computed in less time than a call of an operator of our own takes


def cross_entropy(labels, logits):
    """Returns the losses, in a compiled step with a gradient of its own."""
    labels = labels.long()[..., None]
    if is_recording() and logits.requires_grad:
        return _CrossEntropy.apply(logits, labels)
    scores = logits.float()
    return torch.logsumexp(scores, dim=-1) - scores.gather(-1, labels)[..., 0]


class _CrossEntropy(torch.autograd.Function):
    """Keeps the numerators of the probabilities, in the type of the logits, which is that of their gradient, too."""

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


def linear_cross_entropy(hidden, table, labels, weights, chunk_size: int, differentiable: bool = True):
    """Returns the sum, by one operator of our own: a compiled step holds the loop as a call, not all of its chunks."""
    differentiable = differentiable and torch.is_grad_enabled()
    if is_recording() and len(hidden) * len(table) <= _FEW:
        losses = cross_entropy(labels, Dense.apply(hidden, table.to(hidden.dtype).t(), None))
        return torch.where(weights == 0, 0.0, losses * weights).sum()
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


_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define(
    "chunked_cross_entropy(Tensor hidden, Tensor table, Tensor labels, Tensor weights, int chunk_size, "
    "bool differentiable, bool compiled) -> (Tensor, Tensor, Tensor)"
)


def _run(hidden, table, labels, weights, chunk_size, differentiable, compiled):
    """Returns the loss, and its gradients of `hidden` and `table`, which are empty if none are asked for.

    Beside the gradients, no more than one chunk of logits is in memory: their gradient takes their place.
    """
    matrix = table.to(hidden.dtype)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    of_hidden = torch.empty_like(hidden) if differentiable else hidden.new_empty(0)
    of_table = table.new_zeros(table.shape if differentiable else 0)
    slopes, add = _compiled() if compiled and not is_recording() else (_slopes, torch.Tensor.add_)
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        part = hidden[chunk]
        logits = product_with_transpose(part, matrix)
        total += slopes(logits, labels[chunk], weights[chunk])  # the logits are their gradient now
        if differentiable:
            of_hidden[chunk] = product_with_transpose(logits, matrix.t())
            if table.dtype == hidden.dtype:
                of_table.addmm_(logits.t(), part)
            else:
                add(of_table, logits.t() @ part)
    return total, of_hidden, of_table


_library.impl("chunked_cross_entropy", _run, "CompositeExplicitAutograd")


@torch.library.register_fake("kerasllm::chunked_cross_entropy")
def _shapes(hidden, table, labels, weights, chunk_size, differentiable, compiled):
    total = torch.empty((), dtype=torch.float32, device=hidden.device)
    if not differentiable:
        return total, hidden.new_empty(0), table.new_empty(0)
    return total, torch.empty_like(hidden), table.new_empty(table.shape)


def _slopes(logits, labels, weights):
    """Returns the loss of a chunk, and writes its gradient of the logits in their place."""
    scores = torch.log_softmax(logits, dim=-1, dtype=torch.float32)  # makes no copy in float32 first
    losses = -scores.gather(1, labels[:, None])[:, 0] * weights
    slope = scores.exp_()  # now the probabilities
    slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
    logits.copy_(slope.mul_(weights[:, None]))
    return losses.masked_fill(weights == 0, 0.0).sum()


@functools.cache
def _compiled():
    """Returns `_slopes` and the sum of two tables, for a compiler, which fuses what in-place operations would save.

    The table's gradient is float32 and a chunk's share of it bfloat16, of which torch itself first makes a copy in
    float32.
    """

    def slopes(logits, labels, weights):
        scores = logits.float()
        normalizer = torch.logsumexp(scores, dim=-1)
        losses = (normalizer - scores.gather(1, labels[:, None])[:, 0]) * weights
        probabilities = torch.exp(scores - normalizer[:, None])
        is_label = torch.arange(logits.shape[-1], device=logits.device)[None] == labels[:, None]
        logits.copy_(torch.where(is_label, probabilities - 1, probabilities) * weights[:, None])
        return losses.masked_fill(weights == 0, 0.0).sum()

    def add(total, share):
        total.add_(share)

    return [torch.compile(function, fullgraph=True, dynamic=False) for function in (slopes, add)]
