"""Kernels of our own, in C++, for cross-entropies over many classes on a CPU within a compiled step.

A compiler goes through the logits once for each sum, and computes each exponential twice; here a row stays in the
processor's cache, and what is needed twice with it. A chunk of 1,024 rows of 50,304 logits in bfloat16, with its
gradient: 13 to 16 ms against 58 to 81 (two cores with AVX512).
"""

import torch

from kerasllm.backend.torch.kernels.built import numbers, pairs

_SUMS = """
constexpr int64_t BLOCK = 64 * WIDTH;  // sums are of sums of blocks, to lose fewer digits

static inline float sum_of(const Pair& pair) {
    return at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return x + y; }, pair[0] + pair[1]);
}

static float highest_of(const Value* row, int64_t classes) {
    Pair highest(-std::numeric_limits<float>::infinity());
    int64_t place = 0;
    for (; place + WIDTH <= classes; place += WIDTH) highest = at::vec::maximum(highest, load(row + place));
    float found = at::vec::vec_reduce_all<float>(
        [](Vector& x, Vector& y) { return at::vec::maximum(x, y); }, at::vec::maximum(highest[0], highest[1]));
    for (; place < classes; ++place) found = max_propagate_nan(found, static_cast<float>(row[place]));
    return found;
}

// The sum of exp(row - highest); the summands, too, if `kept` is not null.
static float sum_of_exponentials(const Value* row, int64_t classes, float highest, float* kept) {
    const Pair most(highest);
    float total = 0;
    int64_t place = 0;
    while (place + WIDTH <= classes) {
        Pair sum(0.f);
        const int64_t end = std::min(place + BLOCK, classes / WIDTH * WIDTH);
        for (; place < end; place += WIDTH) {
            const Pair some = exponential(load(row + place) - most);
            sum = sum + some;
            if (kept) some.store(kept + place);
        }
        total += sum_of(sum);
    }
    for (; place < classes; ++place) {
        const float some = std::exp(static_cast<float>(row[place]) - highest);
        total += some;
        if (kept) kept[place] = some;
    }
    return total;
}
"""

# Of each row the loss, the highest logit, the sum of exponentials of what the others are less, and whether the label's
# logit is the highest: 1, 1/n if n share that, or 0.
_LOSSES = """
extern "C" void kernel(const Value* logits, const int64_t* labels, const int64_t* sizes, float* losses,
                       float* most, float* totals, float* hits) {
    const int64_t rows = sizes[0], classes = sizes[1];
    #pragma omp parallel for
    for (int64_t number = 0; number < rows; ++number) {
        const Value* row = logits + number * classes;
        const float highest = highest_of(row, classes), chosen = static_cast<float>(row[labels[number]]);
        most[number] = highest;
        totals[number] = sum_of_exponentials(row, classes, highest, nullptr);
        losses[number] = std::log(totals[number]) + (highest - chosen);
        hits[number] = 0;
        if (chosen == highest) hits[number] = 1.f / std::count(row, row + classes, row[labels[number]]);
    }
}
"""

# Of each row the gradient of its loss times `upstream`; where that is 0, whatever the logits are.
_SLOPES = """
extern "C" void kernel(const Value* logits, const int64_t* labels, const int64_t* sizes, const float* upstream,
                       const float* most, const float* totals, Value* slopes) {
    const int64_t rows = sizes[0], classes = sizes[1];
    #pragma omp parallel for
    for (int64_t number = 0; number < rows; ++number) {
        const Value* row = logits + number * classes;
        Value* slope = slopes + number * classes;
        const float highest = most[number], factor = upstream[number] / totals[number];
        if (upstream[number] == 0) {
            std::fill(slope, slope + classes, static_cast<Value>(0.f));
            continue;
        }
        int64_t place = 0;
        for (; place + WIDTH <= classes; place += WIDTH)
            store(exponential(load(row + place) - Pair(highest)) * Pair(factor), slope + place);
        for (; place < classes; ++place)
            slope[place] = static_cast<Value>(std::exp(static_cast<float>(row[place]) - highest) * factor);
        const float chosen = std::exp(static_cast<float>(row[labels[number]]) - highest);
        slope[labels[number]] = static_cast<Value>(chosen * factor - upstream[number]);
    }
}
"""

# Of each row the weighted loss; the gradient of that takes the place of the logits. What weighs nothing is not read.
_BOTH = """
extern "C" void kernel(Value* logits, const int64_t* labels, const int64_t* sizes, const float* weights,
                       float* losses) {
    const int64_t rows = sizes[0], classes = sizes[1];
    #pragma omp parallel
    {
        std::vector<float> kept(classes);
        #pragma omp for
        for (int64_t number = 0; number < rows; ++number) {
            Value* row = logits + number * classes;
            const float weight = weights[number];
            losses[number] = 0;
            if (weight == 0) {
                std::fill(row, row + classes, static_cast<Value>(0.f));
                continue;
            }
            const float highest = highest_of(row, classes), chosen = static_cast<float>(row[labels[number]]);
            const float total = sum_of_exponentials(row, classes, highest, kept.data());
            losses[number] = (std::log(total) + (highest - chosen)) * weight;
            const float factor = weight / total;
            int64_t place = 0;
            for (; place + WIDTH <= classes; place += WIDTH)
                store(Pair::loadu(kept.data() + place) * Pair(factor), row + place);
            for (; place < classes; ++place) row[place] = static_cast<Value>(kept[place] * factor);
            row[labels[number]] = static_cast<Value>(kept[labels[number]] * factor - weight);
        }
    }
}
"""

# Adds values to a sum in float32.
_ADD = """
extern "C" void kernel(float* sums, const Value* values, const int64_t* sizes) {
    const int64_t count = sizes[0], whole = count / WIDTH * WIDTH;
    #pragma omp parallel for
    for (int64_t place = 0; place < whole; place += WIDTH)
        (Pair::loadu(sums + place) + load(values + place)).store(sums + place);
    for (int64_t place = whole; place < count; ++place) sums[place] += static_cast<float>(values[place]);
}
"""

pairs.add(
    _SUMS,
    losses=(("Value", "int64_t", "int64_t", "float", "float", "float", "float"), _LOSSES),
    slopes=(("Value", "int64_t", "int64_t", "float", "float", "float", "Value"), _SLOPES),
    both=(("Value", "int64_t", "int64_t", "float", "float"), _BOTH),
)
pairs.add(add=(("float", "Value", "int64_t"), _ADD))


# Operators, so that a step can be recorded.
_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define("row_losses(Tensor logits, Tensor labels) -> (Tensor, Tensor, Tensor, Tensor)")
_library.define(
    "row_slopes(Tensor logits, Tensor labels, Tensor upstream, Tensor highest, Tensor totals) -> Tensor"
)


def _losses(logits, labels):
    check(labels, *logits.shape)
    found = [logits.new_empty(len(labels), dtype=torch.float32) for _ in range(4)]
    pairs.of(logits.dtype).call(
        "losses", logits.contiguous(), labels.contiguous(), numbers(*logits.shape), *found
    )
    return tuple(found)


def _slopes(logits, labels, *of_rows):
    slopes = logits.new_empty(logits.shape)
    logits, labels, *others = (tensor.contiguous() for tensor in (logits, labels, *of_rows))
    pairs.of(logits.dtype).call("slopes", logits, labels, numbers(*logits.shape), *others, slopes)
    return slopes


_library.impl("row_losses", _losses, "CPU")
_library.impl("row_slopes", _slopes, "CPU")


@torch.library.register_fake("kerasllm::row_losses")
def _shapes_of_losses(logits, labels):
    check_shape(labels, *logits.shape)
    pairs.of(logits.dtype).begin()
    return tuple(logits.new_empty(labels.shape, dtype=torch.float32) for _ in range(4))


@torch.library.register_fake("kerasllm::row_slopes")
def _shape_of_slopes(logits, labels, upstream, highest, totals):
    return logits.new_empty(logits.shape)


class RowCrossEntropy(torch.autograd.Function):
    """Of logits (rows, classes) and labels int64 (rows,): the losses, and whether each label's logit is the highest.

    That is 1, 1/n where n logits are the highest, or 0; no gradient flows through it.
    """

    @staticmethod
    def forward(ctx, logits, labels):
        """Both float32 (rows,)."""
        losses, highest, totals, hits = torch.ops.kerasllm.row_losses(logits, labels)
        ctx.save_for_backward(logits, labels, highest, totals)
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    def backward(ctx, upstream, _):
        """Of the logits."""
        logits, labels, highest, totals = ctx.saved_tensors
        return torch.ops.kerasllm.row_slopes(logits, labels, upstream, highest, totals), None


def losses_and_slopes(logits, labels, weights):
    """The sum of the weighted losses and their gradient, which takes the place of the logits.

    Args:
        logits: (rows, classes).
        labels: int64 (rows,).
        weights: float32 (rows,).
    """
    check(labels, *logits.shape)
    logits = logits.contiguous()
    losses, weights = logits.new_empty(len(labels), dtype=torch.float32), weights.float().contiguous()
    sizes = numbers(*logits.shape)
    pairs.of(logits.dtype).call("both", logits, labels.contiguous(), sizes, weights, losses)
    return losses.sum(), logits


def check(labels, rows: int, classes: int) -> None:
    """Raises an error unless there is a class for each row."""
    check_shape(labels, rows, classes)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise IndexError(
            f"labels lie between {int(labels.min())} and {int(labels.max())}, but there are {classes} classes"
        )


def check_shape(labels, rows: int, classes: int) -> None:
    """Raises an error unless there is a label for each row."""
    if labels.shape != (rows,):
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits ({rows}, {classes})")


def add(total, values):
    """Adds `values` to a `total` in float32; both contiguous, of one shape."""
    pairs.of(values.dtype).call("add", total, values, numbers(total.numel()))
