"""Projection to the vocabulary and cross-entropy in one, a chunk of tokens at a time, for PyTorch."""

import torch

from kerasllm.backend.torch_products import product_with_transpose


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
    return _Chunked.apply(hidden, table, labels.long(), weights, chunk_size, differentiable)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, table, labels, weights, chunk_size, differentiable):
        matrix = table.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if differentiable:
            of_hidden = torch.empty_like(hidden)
            of_table = torch.zeros_like(table)
        for start in range(0, len(hidden), chunk_size):
            chunk = slice(start, start + chunk_size)
            part, label, weight = hidden[chunk], labels[chunk], weights[chunk]
            logits = product_with_transpose(part, matrix)
            scores = torch.log_softmax(logits, dim=-1, dtype=torch.float32)  # makes no copy in float32 first
            losses = -scores.gather(1, label[:, None])[:, 0] * weight
            total += losses.masked_fill(weight == 0, 0.0).sum()
            if differentiable:
                slope = scores.exp_()  # now the probabilities
                slope.scatter_add_(1, label[:, None], slope.new_full((len(label), 1), -1.0))
                slope = slope.mul_(weight[:, None]).to(hidden.dtype)
                of_hidden[chunk] = product_with_transpose(slope, matrix.t())
                if table.dtype == hidden.dtype:
                    of_table.addmm_(slope.t(), part)
                else:
                    of_table += slope.t() @ part
        if differentiable:
            ctx.save_for_backward(of_hidden, of_table)
        return total

    @staticmethod
    def backward(ctx, upstream):
        of_hidden, of_table = ctx.saved_tensors
        if upstream.device.type == "cpu" and upstream == 1:  # the loss itself, as it mostly is
            return of_hidden, of_table, None, None, None, None
        return of_hidden * upstream.to(of_hidden.dtype), of_table * upstream, None, None, None, None
