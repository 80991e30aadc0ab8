"""Self-attention of short sequences in float32 on a CPU, within a compiled step: a kernel of our own, in C++.

A head's scores stay in the processor's cache from the product that makes them to the one that uses them, and half of
them, which a causal mask would hide, are not made. As products and a softmax in turn it took twice to three times as
long, the most of it for arranging memory.
"""

import torch

from kerasllm.backend.torch_built import EXPONENTIAL, Kernels, has_vectors

_LONGEST, _WIDEST = 512, 128  # positions and head_dim; the scores of a head are kept whole

_CODE = """
#include <torch/csrc/inductor/cpp_prefix.h>
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>
%(exponential)s
constexpr int64_t WIDTH = Vector::size();
constexpr int ROWS = 4, COLUMNS = WIDTH >= 16 ? 4 : 2;  // of a tile of a product, the latter in vectors

static inline int64_t whole(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

// Floats whose first lies at the start of a line of the cache, so that no vector lies across two.
class Floats {
    std::vector<float> memory;

  public:
    explicit Floats(int64_t count) : memory(count + 16) {}
    float* data() { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64); }
};

// Floats from row to row of a matrix: a power of two would leave most of the cache unused.
static inline int64_t apart_for(int64_t count) { return whole(count) + WIDTH; }

struct Matrix {  // element (row, column) is data[row * down + column * right]
    const float* data;
    int64_t down, right;
};

template <int R, int C>
static inline void tile(Matrix a, const float* b, int64_t width, int64_t from, int64_t to, float* out, int64_t stride) {
    Vector sums[R][C];
    #pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
        #pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r][c] = Vector(0.f);
    for (int64_t k = from; k < to; ++k) {
        Vector row[C];
        #pragma GCC unroll 4
        for (int c = 0; c < C; ++c) row[c] = Vector::loadu(b + k * width + c * WIDTH);
        #pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const Vector factor(a.data[r * a.down + k * a.right]);
            #pragma GCC unroll 4
            for (int c = 0; c < C; ++c) sums[r][c] = at::vec::fmadd(factor, row[c], sums[r][c]);
        }
    }
    #pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
        #pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r][c].store(out + r * stride + c * WIDTH);
}

// out (rows, columns) = a (rows, from..to) @ b (from..to, columns). `columns` are whole vectors, and a row of b and of
// out has room for them.
template <int R>
static inline void some_rows(Matrix a, const float* b, int64_t width, int64_t from, int64_t to, int64_t columns,
                             float* out, int64_t stride) {
    int64_t column = 0;
    for (; column + COLUMNS * WIDTH <= columns; column += COLUMNS * WIDTH)
        tile<R, COLUMNS>(a, b + column, width, from, to, out + column, stride);
    for (; column + 2 * WIDTH <= columns; column += 2 * WIDTH)
        tile<R, 2>(a, b + column, width, from, to, out + column, stride);
    for (; column < columns; column += WIDTH) tile<R, 1>(a, b + column, width, from, to, out + column, stride);
}
static void multiply(Matrix a, const float* b, int64_t width, int64_t from, int64_t to, int64_t rows, int64_t columns,
                     float* out, int64_t stride) {
    if (rows == ROWS) return some_rows<ROWS>(a, b, width, from, to, columns, out, stride);
    for (int64_t row = 0; row < rows; ++row)
        some_rows<1>({a.data + row * a.down, a.down, a.right}, b, width, from, to, columns, out + row * stride, stride);
}

// Rows of a head, `stride` apart, side by side; a row has whole vectors, the last filled up with 0.
static void gather(const float* from, int64_t stride, int64_t length, int64_t width, float* to) {
    const int64_t padded = whole(width);
    for (int64_t row = 0; row < length; ++row) {
        std::copy(from + row * stride, from + row * stride + width, to + row * padded);
        std::fill(to + row * padded + width, to + (row + 1) * padded, 0.f);
    }
}
static void gather_transposed(const float* from, int64_t stride, int64_t length, int64_t width, float* to,
                              int64_t apart) {
    for (int64_t start = 0; start < length; start += 16) {  // a line of the cache of `to`
        const int64_t end = std::min(start + 16, length);
        for (int64_t column = 0; column < width; ++column)
            for (int64_t row = start; row < end; ++row) to[column * apart + row] = from[row * stride + column];
    }
    for (int64_t column = 0; column < width; ++column)
        std::fill(to + column * apart + length, to + column * apart + whole(length), 0.f);
}
static void scatter(const float* from, int64_t padded, int64_t rows, int64_t width, float factor, float* to,
                    int64_t stride) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < width; ++column)
            to[row * stride + column] = from[row * padded + column] * factor;
}

struct Sizes {
    int64_t batch, heads, length, width, is_causal, has_mask, mask_batch, mask_row;
    float scale;
    explicit Sizes(const int64_t* s)
        : batch(s[0]), heads(s[1]), length(s[2]), width(s[3]), is_causal(s[4]), has_mask(s[5]), mask_batch(s[6]),
          mask_row(s[7]), scale(1 / std::sqrt(static_cast<float>(s[3]))) {}
    int64_t last_key(int64_t row) const { return is_causal ? std::min(row + 1, length) : length; }
};

// The scaled scores of a row from 0 to `end`, whole vectors: what is masked far below all others, what is no key minus
// infinity. Returns the highest.
static float masked(float* scores, const Sizes& sizes, int64_t row, int64_t end, const bool* mask) {
    const int64_t last = sizes.last_key(row);
    const Vector scale(sizes.scale);
    for (int64_t key = 0; key < end; key += WIDTH) (Vector::loadu(scores + key) * scale).store(scores + key);
    if (mask)
        for (int64_t key = 0; key < last; ++key) scores[key] += mask[key] ? 0.f : -1e30f;
    for (int64_t key = last; key < end; ++key) scores[key] = -std::numeric_limits<float>::infinity();
    Vector highest = Vector::loadu(scores);
    for (int64_t key = WIDTH; key < end; key += WIDTH)
        highest = at::vec::maximum(highest, Vector::loadu(scores + key));
    return at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return at::vec::maximum(x, y); }, highest);
}
"""

# What is needed to make the probabilities again is kept, of each row the highest score and the sum of exponentials.
_FORWARD = """
extern "C" void kernel(const float* projected, const bool* masks, const int64_t* given, float* attended,
                       float* normalizers) {
    const Sizes sizes(given);
    const int64_t length = sizes.length, width = sizes.width, all = sizes.heads * width, stride = 3 * all;
    const int64_t apart = apart_for(length), wide = whole(width);
    #pragma omp parallel
    {
        Floats keys(width * apart), values(length * wide), scores(ROWS * apart), found(ROWS * wide);
        #pragma omp for
        for (int64_t number = 0; number < sizes.batch * sizes.heads; ++number) {
            const int64_t batch = number / sizes.heads, head = number % sizes.heads;
            const float* query = projected + batch * length * stride + head * width;
            gather_transposed(query + all, stride, length, width, keys.data(), apart);
            gather(query + 2 * all, stride, length, width, values.data());
            for (int64_t row = 0; row < length; row += ROWS) {
                const int64_t rows = std::min<int64_t>(ROWS, length - row), last = sizes.last_key(row + rows - 1);
                const int64_t end = whole(last);
                multiply({query + row * stride, stride, 1}, keys.data(), apart, 0, width, rows, end, scores.data(),
                         apart);
                float sums[ROWS];
                for (int64_t r = 0; r < rows; ++r) {
                    float* some = scores.data() + r * apart;
                    const bool* mask = sizes.has_mask
                        ? masks + batch * sizes.mask_batch + (row + r) * sizes.mask_row : nullptr;
                    const float highest = masked(some, sizes, row + r, end, mask);
                    Vector sum(0.f);
                    for (int64_t key = 0; key < end; key += WIDTH) {
                        const Vector numerators = exponential(Vector::loadu(some + key) - Vector(highest));
                        numerators.store(some + key);
                        sum = sum + numerators;
                    }
                    sums[r] = at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return x + y; }, sum);
                    normalizers[2 * (number * length + row + r)] = highest;
                    normalizers[2 * (number * length + row + r) + 1] = sums[r];
                }
                multiply({scores.data(), apart, 1}, values.data(), wide, 0, last, rows, wide, found.data(), wide);
                for (int64_t r = 0; r < rows; ++r)
                    scatter(found.data() + r * wide, wide, 1, width, 1 / sums[r],
                            attended + (batch * length + row + r) * all + head * width, all);
            }
        }
    }
}
"""

_BACKWARD = """
extern "C" void kernel(const float* projected, const bool* masks, const int64_t* given, const float* attended,
                       const float* normalizers, const float* upstream, float* slopes) {
    const Sizes sizes(given);
    const int64_t length = sizes.length, width = sizes.width, all = sizes.heads * width, stride = 3 * all;
    const int64_t apart = apart_for(length), wide = whole(width);
    #pragma omp parallel
    {
        Floats turned_keys(width * apart), turned_values(width * apart), queries(length * wide),
            keys(length * wide), above(length * wide), probabilities((length + ROWS) * apart),
            differences((length + ROWS) * apart), found(ROWS * wide);
        #pragma omp for
        for (int64_t number = 0; number < sizes.batch * sizes.heads; ++number) {
            const int64_t batch = number / sizes.heads, head = number % sizes.heads;
            const float* query = projected + batch * length * stride + head * width;
            float* slope = slopes + batch * length * stride + head * width;
            const int64_t place = batch * length * all + head * width;
            gather_transposed(query + all, stride, length, width, turned_keys.data(), apart);
            gather_transposed(query + 2 * all, stride, length, width, turned_values.data(), apart);
            gather(query, stride, length, width, queries.data());
            gather(query + all, stride, length, width, keys.data());
            gather(upstream + place, all, length, width, above.data());
            for (int64_t row = 0; row < length; row += ROWS) {
                const int64_t rows = std::min<int64_t>(ROWS, length - row), last = sizes.last_key(row + rows - 1);
                const int64_t end = whole(last);
                float* some = probabilities.data() + row * apart;
                float* others = differences.data() + row * apart;
                multiply({query + row * stride, stride, 1}, turned_keys.data(), apart, 0, width, rows, end, some,
                         apart);
                multiply({above.data() + row * wide, wide, 1}, turned_values.data(), apart, 0, width, rows, end,
                         others, apart);
                for (int64_t r = 0; r < rows; ++r, some += apart, others += apart) {
                    const bool* mask = sizes.has_mask
                        ? masks + batch * sizes.mask_batch + (row + r) * sizes.mask_row : nullptr;
                    masked(some, sizes, row + r, end, mask);
                    float mean = 0;
                    for (int64_t column = 0; column < width; ++column)
                        mean += above.data()[(row + r) * wide + column] * attended[place + (row + r) * all + column];
                    const float* normalizer = normalizers + 2 * (number * length + row + r);
                    const Vector highest(normalizer[0]), factor(1 / normalizer[1]), middle(mean);
                    for (int64_t key = 0; key < end; key += WIDTH) {
                        const Vector share = exponential(Vector::loadu(some + key) - highest) * factor;
                        share.store(some + key);
                        (share * (Vector::loadu(others + key) - middle)).store(others + key);
                    }
                }
                multiply({differences.data() + row * apart, apart, 1}, keys.data(), wide, 0, last, rows, wide,
                         found.data(), wide);
                scatter(found.data(), wide, rows, width, sizes.scale, slope + row * stride, stride);
            }
            for (int64_t key = 0; key < length; key += ROWS) {
                const int64_t rows = std::min<int64_t>(ROWS, length - key), first = sizes.is_causal ? key : 0;
                multiply({differences.data() + key, 1, apart}, queries.data(), wide, first, length, rows, wide,
                         found.data(), wide);
                scatter(found.data(), wide, rows, width, sizes.scale, slope + all + key * stride, stride);
                multiply({probabilities.data() + key, 1, apart}, above.data(), wide, first, length, rows, wide,
                         found.data(), wide);
                scatter(found.data(), wide, rows, width, 1, slope + 2 * all + key * stride, stride);
            }
        }
    }
}
"""

_KERNELS = Kernels(
    _CODE % {"exponential": EXPONENTIAL},
    {
        "forward": (("float", "bool", "int64_t", "float", "float"), _FORWARD),
        "backward": (("float", "bool", "int64_t", "float", "float", "float", "float"), _BACKWARD),
    },
)

# The compiler's cache on disk tells operators by their names alone: one that returns something else needs another.
_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define(
    "heads_attention(Tensor projected, int num_heads, Tensor? mask, bool is_causal) -> (Tensor, Tensor)"
)
_library.define(
    "heads_attention_backward(Tensor projected, int num_heads, Tensor? mask, bool is_causal, Tensor attended, "
    "Tensor normalizers, Tensor upstream) -> Tensor"
)


def _arguments(projected, num_heads: int, mask, is_causal: bool):
    batch, length, width = projected.shape
    if mask is None:
        masks, strides = projected.new_empty(0, dtype=torch.bool), [0, 0]
    else:
        masks = mask.expand(mask.shape[0], 1, mask.shape[2], length).contiguous()
        strides = [0 if masks.shape[axis] == 1 else masks.stride(axis) for axis in (0, 2)]
    sizes = (batch, num_heads, length, width // (3 * num_heads), is_causal, mask is not None, *strides)
    return projected.contiguous(), masks, torch.tensor(sizes, device="cpu")


def _forward(projected, num_heads, mask, is_causal):
    batch, length, width = projected.shape
    found = projected.new_empty(batch, length, width // 3), projected.new_empty(batch, num_heads, length, 2)
    _KERNELS.call("forward", *_arguments(projected, num_heads, mask, is_causal), *found)
    return found


def _backward(projected, num_heads, mask, is_causal, *tensors):
    slopes = projected.new_empty(projected.shape)
    given = (tensor.contiguous() for tensor in tensors)
    _KERNELS.call("backward", *_arguments(projected, num_heads, mask, is_causal), *given, slopes)
    return slopes


_library.impl("heads_attention", _forward, "CPU")
_library.impl("heads_attention_backward", _backward, "CPU")


@torch.library.register_fake("kerasllm::heads_attention")
def _shapes(projected, num_heads, mask, is_causal):
    _KERNELS.begin()
    batch, length, width = projected.shape
    return projected.new_empty(batch, length, width // 3), projected.new_empty(batch, num_heads, length, 2)


@torch.library.register_fake("kerasllm::heads_attention_backward")
def _shape_of_slopes(projected, num_heads, mask, is_causal, attended, normalizers, upstream):
    return projected.new_empty(projected.shape)


def takes(projected, num_heads: int, mask) -> bool:
    """Whether the kernel can compute this attention. Asked in a compiled step alone."""
    _, length, width = projected.shape
    fits = length <= _LONGEST and width // (3 * num_heads) <= _WIDEST
    one_mask = mask is None or (mask.ndim == 4 and mask.shape[1] == 1 and mask.dtype == torch.bool)
    return projected.dtype == torch.float32 and fits and one_mask and has_vectors(projected)


class SelfAttention(torch.autograd.Function):
    """Of projections float32 (batch, length, 3 * hidden_dim), those of queries, keys and values side by side.

    Returns (batch, length, hidden_dim), the heads side by side. The mask, if any, is boolean and broadcastable to
    (batch, 1, length, length), True where attention is allowed. For the gradient the probabilities are made once more.

    Reference: Dao et al. 2022, https://arxiv.org/abs/2205.14135, section 3.1.
    """

    @staticmethod
    def forward(ctx, projected, num_heads, mask, is_causal):
        """See the class."""
        attended, normalizers = torch.ops.kerasllm.heads_attention(projected, num_heads, mask, is_causal)
        ctx.save_for_backward(projected, attended, normalizers, mask)
        ctx.settings = num_heads, is_causal
        return attended

    @staticmethod
    def backward(ctx, upstream):
        """Of the projections."""
        projected, attended, normalizers, mask = ctx.saved_tensors
        num_heads, is_causal = ctx.settings
        slopes = torch.ops.kerasllm.heads_attention_backward(
            projected, num_heads, mask, is_causal, attended, normalizers, upstream
        )
        return slopes, None, None, None
