"""GELU for a compiled step on a CPU: the derivative is found with the value, as both need the same exponential."""

import torch

from kerasllm.backend.torch.kernels.built import empty_as, numbers, pairs
from kerasllm.backend.torch.kernels.column_sums import COLUMN_SUMS

_GELU = """
// 1 / x of what is not below 1, infinity included.
ALWAYS_INLINE Pair inverse(const Pair& x) {
#if defined(CPU_CAPABILITY_AVX512)  // a third of a division's time
    Pair found;
    for (int part = 0; part < 2; ++part) {
        const __m512 most = _mm512_min_ps(x[part], _mm512_set1_ps(1e30f)), near = _mm512_rcp14_ps(most);
        const __m512 rest = _mm512_fnmadd_ps(most, near, _mm512_set1_ps(1.f));
        found[part] = _mm512_fmadd_ps(near, rest, near);
    }
    return found;
#else
    return Pair(1.f) / x;
#endif
}

ALWAYS_INLINE void gelu(const Pair& x, Pair& value, Pair& slope) {
    const Pair one(1.f), exponent = exponential(x * x * Pair(-0.5f));
    const Pair t = inverse(fmadd(Pair(0.3275911f * 0.70710678118654752f), x.abs(), one));
    Pair series(0.5f * 1.061405429f);
    for (const float factor : {-0.5f * 1.453152027f, 0.5f * 1.421413741f, -0.5f * 0.284496736f, 0.5f * 0.254829592f})
        series = fmadd(series, t, Pair(factor));
    const Pair beyond = series * t * exponent;  // the probability of what is further from 0 on the same side
    const Pair below = Pair::blendv(one - beyond, beyond, x < Pair(0.f));
    value = x * below;
    slope = fmadd(x, exponent * Pair(0.3989422804014327f), below);
}
ALWAYS_INLINE void gelu_by_tanh(const Pair& x, Pair& value, Pair& slope) {
    const Pair one(1.f), factor(0.7978845608028654f), square = x * x, cubic(0.044715f);
    const Pair argument = factor * x * fmadd(cubic, square, one);
    // With e = exp(-2 |argument|), (1 + tanh) / 2 is 1 / (1 + e) or e / (1 + e), and 1 - tanh^2 is 4 e / (1 + e)^2.
    const Pair exponent = exponential(argument.abs() * Pair(-2.f)), share = inverse(one + exponent);
    const Pair below = Pair::blendv(share, exponent * share, x < Pair(0.f));
    value = x * below;
    const Pair rise = factor * fmadd(Pair(3.f) * cubic, square, one);  // of the argument
    slope = fmadd(Pair(2.f) * x * (exponent * share * share), rise, below);
}
template <bool BY_TANH>
static void apply(const Value* inputs, int64_t count, Value* values, Value* slopes) {
    const int64_t whole = count / WIDTH * WIDTH;
    Pair value, slope;
    #pragma omp parallel for private(value, slope)
    for (int64_t place = 0; place < whole; place += WIDTH) {
        if constexpr (BY_TANH) gelu_by_tanh(load(inputs + place), value, slope);
        else gelu(load(inputs + place), value, slope);
        store(value, values + place);
        store(slope, slopes + place);
    }
    if (whole == count) return;
    Value rest[3][WIDTH] = {};
    std::copy(inputs + whole, inputs + count, rest[0]);
    if constexpr (BY_TANH) gelu_by_tanh(load(rest[0]), value, slope);
    else gelu(load(rest[0]), value, slope);
    store(value, rest[1]);
    store(slope, rest[2]);
    std::copy(rest[1], rest[1] + count - whole, values + whole);
    std::copy(rest[2], rest[2] + count - whole, slopes + whole);
}
extern "C" void kernel(const Value* inputs, const int64_t* sizes, Value* values, Value* slopes) {
    (sizes[1] ? apply<true> : apply<false>)(inputs, sizes[0], values, slopes);
}
"""

# The gradient of the inputs, and its sums over the rows.
_BACKWARD = """
extern "C" void kernel(const Value* upstream, const Value* slopes, const int64_t* sizes, Value* found, float* sums) {
    const int64_t rows = sizes[0], width = sizes[1];
    ColumnSums totals(width);
    #pragma omp parallel
    {
        RowSums summed(totals);
        #pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            const Value *above = upstream + row * width, *slope = slopes + row * width;
            Value* of_inputs = found + row * width;
            float* sum = summed.data();
            int64_t column = 0;
            for (; column + WIDTH <= width; column += WIDTH) {
                const Pair some = load(above + column) * load(slope + column);
                store(some, of_inputs + column);
                (Pair::loadu(sum + column) + some).store(sum + column);
            }
            for (; column < width; ++column) {
                const float some = static_cast<float>(above[column]) * static_cast<float>(slope[column]);
                of_inputs[column] = static_cast<Value>(some);
                sum[column] += some;
            }
            summed.next();
        }
    }
    totals.write(sums);
}
"""
pairs.add(gelu=(("Value", "int64_t", "Value", "Value"), _GELU))
pairs.add(COLUMN_SUMS, gelu_slopes=(("Value", "Value", "int64_t", "Value", "float"), _BACKWARD))

_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define("gelu(Tensor inputs, bool by_tanh) -> (Tensor, Tensor)")
_library.define("gelu_slopes(Tensor upstream, Tensor slopes) -> (Tensor, Tensor)")


def _values_and_slopes(inputs, by_tanh: bool):
    found = empty_as(inputs), empty_as(inputs)
    sizes = numbers(inputs.numel(), by_tanh)
    pairs.of(inputs.dtype).call("gelu", inputs.contiguous(), sizes, *found)
    return found


def _slopes_and_sums(upstream, slopes):
    found, sums = _new_slopes(upstream, slopes)
    sizes = numbers(slopes.numel() // max(1, len(sums)), len(sums))
    given = upstream.contiguous(), slopes.contiguous()
    pairs.of(slopes.dtype).call("gelu_slopes", *given, sizes, found, sums)
    return found, sums


def _new_slopes(upstream, slopes):
    width = slopes.shape[-1] if slopes.ndim else 1
    return empty_as(slopes), slopes.new_empty((width,), dtype=torch.float32)


_library.impl("gelu", _values_and_slopes, "CPU")
_library.impl("gelu_slopes", _slopes_and_sums, "CPU")
torch.library.register_fake("kerasllm::gelu_slopes", _new_slopes)


@torch.library.register_fake("kerasllm::gelu")
def _shapes(inputs, by_tanh):
    pairs.of(inputs.dtype).begin()
    return empty_as(inputs), empty_as(inputs)


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
        return torch.ops.kerasllm.gelu_slopes(upstream, slope)[0], None
