"""GELU for a compiled step on a CPU: the derivative is found with the value, as both need the same exponential."""

import math

import torch


class Gelu(torch.autograd.Function):
    """GELU, which keeps its derivative in place of its input; both are computed in float32.

    The error function is as torch's own kernels compute it, to 1.5e-7 by formula 7.1.26 of Abramowitz and Stegun 1964,
    Handbook of Mathematical Functions, whose exponential is the density that the derivative asks for.
    """

    @staticmethod
    def forward(ctx, inputs, approximate):
        """Of any shape; the exact one, or the approximation by tanh."""
        found, slope = (_by_tanh if approximate else _exact)(inputs.float())
        ctx.save_for_backward(slope.to(inputs.dtype))
        return found.to(inputs.dtype)

    @staticmethod
    def backward(ctx, upstream):
        """Of the inputs."""
        (slope,) = ctx.saved_tensors
        return upstream * slope, None


def _exact(x):
    exponential = torch.exp(x * x * -0.5)
    t = 1 / (1 + (0.3275911 * math.sqrt(0.5)) * x.abs())
    series = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592
    beyond = 0.5 * series * t * exponential  # the probability of what is further from 0 on the same side
    below = torch.where(x < 0, beyond, 1 - beyond)
    return x * below, below + x * (exponential * (1 / math.sqrt(2 * math.pi)))


def _by_tanh(x):
    factor, square = math.sqrt(2 / math.pi), x * x
    tanh = torch.tanh(factor * x * (1 + 0.044715 * square))
    below = 0.5 * (1 + tanh)
    return x * below, below + 0.5 * x * (1 - tanh * tanh) * (factor * (1 + 3 * 0.044715 * square))
