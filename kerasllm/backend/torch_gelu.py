"""GELU for a compiled step on a CPU: the derivative is found with the value, as both need the same exponential."""

import torch

from kerasllm.backend.torch_built import pairs

_GELU = """
static inline void gelu(const Pair& x, Pair& value, Pair& slope) {
    const Pair one(1.f), half(0.5f), square = x * x, exponent = exponential(square * Pair(-0.5f));
    const Pair t = one / (one + Pair(0.3275911f * 0.70710678118654752f) * x.abs());
    const Pair series = (((Pair(1.061405429f) * t - Pair(1.453152027f)) * t + Pair(1.421413741f)) * t
                         - Pair(0.284496736f)) * t + Pair(0.254829592f);
    const Pair beyond = half * series * t * exponent;  // the probability of what is further from 0 on the same side
    const Pair below = Pair::blendv(one - beyond, beyond, x < Pair(0.f));
    value = x * below;
    slope = below + x * (exponent * Pair(0.3989422804014327f));
}
static inline void gelu_by_tanh(const Pair& x, Pair& value, Pair& slope) {
    const Pair one(1.f), factor(0.7978845608028654f), square = x * x, cubic(0.044715f);
    const Pair argument = factor * x * (one + cubic * square);
    // With e = exp(-2 |argument|), (1 + tanh) / 2 is 1 / (1 + e) or e / (1 + e), and 1 - tanh^2 is 4 e / (1 + e)^2.
    const Pair exponent = exponential(argument.abs() * Pair(-2.f)), share = one / (one + exponent);
    const Pair below = Pair::blendv(share, exponent * share, x < Pair(0.f));
    value = x * below;
    slope = below + Pair(2.f) * x * (exponent * share * share) * (factor * (one + Pair(3.f) * cubic * square));
}
extern "C" void kernel(const Value* inputs, const int64_t* sizes, Value* values, Value* slopes) {
    const int64_t count = sizes[0], whole = count / WIDTH * WIDTH;
    const bool by_tanh = sizes[1];
    Pair value, slope;
    #pragma omp parallel for private(value, slope)
    for (int64_t place = 0; place < whole; place += WIDTH) {
        by_tanh ? gelu_by_tanh(load(inputs + place), value, slope) : gelu(load(inputs + place), value, slope);
        store(value, values + place);
        store(slope, slopes + place);
    }
    if (whole == count) return;
    Value rest[3][WIDTH] = {};
    std::copy(inputs + whole, inputs + count, rest[0]);
    by_tanh ? gelu_by_tanh(load(rest[0]), value, slope) : gelu(load(rest[0]), value, slope);
    store(value, rest[1]);
    store(slope, rest[2]);
    std::copy(rest[1], rest[1] + count - whole, values + whole);
    std::copy(rest[2], rest[2] + count - whole, slopes + whole);
}
"""
pairs.add(gelu=(("Value", "int64_t", "Value", "Value"), _GELU))

_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define("gelu(Tensor inputs, bool by_tanh) -> (Tensor, Tensor)")


def _values_and_slopes(inputs, by_tanh: bool):
    found = [inputs.new_empty(inputs.shape) for _ in range(2)]
    sizes = torch.tensor([inputs.numel(), by_tanh], device="cpu")
    pairs.of(inputs.dtype).call("gelu", inputs.contiguous(), sizes, *found)
    return tuple(found)


_library.impl("gelu", _values_and_slopes, "CPU")


@torch.library.register_fake("kerasllm::gelu")
def _shapes(inputs, by_tanh):
    pairs.of(inputs.dtype).begin()
    return inputs.new_empty(inputs.shape), inputs.new_empty(inputs.shape)


class Gelu(torch.autograd.Function):
    """GELU, which keeps its derivative in place of its input; both are computed in float32.

    The error function is as torch's own kernels compute it, to 1.5e-7 by formula 7.1.26 of Abramowitz and Stegun 1964,
    Handbook of Mathematical Functions, whose exponential is the density that the derivative asks for.
    """

    @staticmethod
    def forward(ctx, inputs, approximate):
        """Of any shape; the exact one, or the approximation by tanh."""
        found, slope = torch.ops.kerasllm.gelu(inputs, approximate)
        ctx.save_for_backward(slope)
        return found

    @staticmethod
    def backward(ctx, upstream):
        """Of the inputs."""
        (slope,) = ctx.saved_tensors
        return upstream * slope, None
