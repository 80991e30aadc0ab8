"""Products within a kernel of our own: oneDNN's small ones, and how they want their factors to lie."""

import torch

from kerasllm.backend.torch.products import in_bfloat16

PRODUCTS = """
#include <ATen/native/CPUBlas.h>
constexpr bool IS_HALF = sizeof(Value) == 2;

static inline int64_t whole(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }
static inline int64_t even(int64_t count) { return (count + 1) / 2 * 2; }
// Values from row to row of a matrix: a power of two would leave most of the cache unused.
static inline int64_t apart_for(int64_t count) { return whole(count) + WIDTH; }

// c (m, n) = a (m, k) @ b (k, n), or is added to it. In bfloat16 two rows of b lie together: element (row, column) at
// b[row / 2][column][row % 2]; of an odd k they and a row of a are filled up with 0.
static inline void multiply(int64_t m, int64_t n, int64_t k, const Value* a, int64_t a_apart, const Value* b,
                            int64_t b_apart, float* c, int64_t c_apart, bool add = false) {
    at::native::cpublas::brgemm(m, n, IS_HALF ? even(k) : k, a_apart, b_apart, c_apart, add, a, b, c, IS_HALF);
}

// One product, so that what this processor cannot do is an error; among threads it would end the program.
static void probe() {
    const Value ones[2] = {1.f, 1.f};
    float found;
    multiply(1, 1, 2, ones, 2, ones, 1, &found, 1);
    at::native::cpublas::brgemm_release(IS_HALF);
}

#pragma GCC push_options
#pragma GCC optimize("tree-loop-vectorize")  // which the compiler's own kernels are built without
static void turn(const float* from, int64_t from_apart, int64_t rows, int64_t columns, float* to, int64_t to_apart) {
#if defined(CPU_CAPABILITY_AVX512)
    at::vec::transpose_mxn<float>(from, from_apart, to, to_apart, static_cast<int>(rows), static_cast<int>(columns));
#else
    for (int64_t start = 0; start < rows; start += 16) {  // a line of the cache of `to`
        const int64_t end = std::min(start + 16, rows);
        for (int64_t column = 0; column < columns; ++column)
            for (int64_t row = start; row < end; ++row) to[column * to_apart + row] = from[row * from_apart + column];
    }
#endif
}

// Rows, `stride` apart, as the second factor of a product.
static void rows_as_factor(const Value* from, int64_t stride, int64_t length, int64_t width, Value* to, int64_t apart) {
    if constexpr (IS_HALF)
        for (int64_t row = 0; row < length; row += 2) {
            const auto* low = reinterpret_cast<const uint16_t*>(from + row * stride);
            const auto* high = low + stride;
            auto* both = reinterpret_cast<uint32_t*>(to + row * apart);
            if (row + 1 < length)
                for (int64_t column = 0; column < width; ++column)
                    both[column] = static_cast<uint32_t>(low[column]) | static_cast<uint32_t>(high[column]) << 16;
            else
                for (int64_t column = 0; column < width; ++column) both[column] = low[column];
        }
    else
        for (int64_t row = 0; row < length; ++row)
            std::copy(from + row * stride, from + row * stride + width, to + row * apart);
}

// The same rows as columns: the factor is (width, length). In bfloat16 the width is even.
static void columns_as_factor(const Value* from, int64_t stride, int64_t length, int64_t width, Value* to,
                              int64_t apart) {
    constexpr int64_t together = IS_HALF ? 2 : 1;
    turn(reinterpret_cast<const float*>(from), stride / together, length, width / together,
         reinterpret_cast<float*>(to), apart);
}

// And as the first factor, (width, length). In bfloat16 they are paired on the way, in a room for even(length) rows of
// apart_for(width), and `apart` is even.
static void columns_as_first_factor(const Value* from, int64_t stride, int64_t length, int64_t width, Value* room,
                                    Value* to, int64_t apart) {
    if constexpr (IS_HALF) {
        rows_as_factor(from, stride, length, width, room, apart_for(width));
        turn(reinterpret_cast<const float*>(room), apart_for(width), even(length) / 2, width,
             reinterpret_cast<float*>(to), apart / 2);
    } else turn(reinterpret_cast<const float*>(from), stride, length, width, reinterpret_cast<float*>(to), apart);
}
#pragma GCC pop_options

static inline float highest_of(const Pair& pair) {
    return at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return at::vec::maximum(x, y); },
                                          at::vec::maximum(pair[0], pair[1]));
}
static inline float sum_of(const Pair& pair) {
    return at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return x + y; }, pair[0] + pair[1]);
}

// What a product gave, times a factor and in its type.
static void scatter(const float* from, int64_t apart, int64_t rows, int64_t width, float factor, Value* to,
                    int64_t stride) {
    for (int64_t row = 0; row < rows; ++row, from += apart, to += stride) {
        int64_t column = 0;
        for (; column + WIDTH <= width; column += WIDTH) store(Pair::loadu(from + column) * Pair(factor), to + column);
        for (; column < width; ++column) to[column] = static_cast<Value>(from[column] * factor);
    }
}
"""
"""C++ in the terms of `torch_built.PairKernels`."""


def multiplies(dtype: torch.dtype) -> bool:
    """Whether `PRODUCTS` can: in bfloat16, whether processor and oneDNN do, and PyTorch is to ask it."""
    if dtype != torch.bfloat16:
        return dtype == torch.float32
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return has_instructions and in_bfloat16() and bool(torch._C._get_mkldnn_enabled())
