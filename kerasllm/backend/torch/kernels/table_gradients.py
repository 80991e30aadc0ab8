"""The gradient of a table of which some rows are read and which is a projection, too, on a CPU within a compiled step.

A matrix of all the rows' gradients would be filled with zeros first, summed, and read again to be added to the other.
"""

import torch

from kerasllm.backend.torch.kernels.built import numbers, pairs

# A matrix in float32, times a factor, and rows added to it, each row of it by one thread and in their order.
_ROWS = """
extern "C" void kernel(const Value* total, const float* rows, const int64_t* ids, const float* factor,
                       const int64_t* sizes, float* sums) {
    const int64_t count = sizes[0], width = sizes[1], all = count * width, whole = all / WIDTH * WIDTH;
    const Pair times(factor[0]);
    #pragma omp parallel
    {
        #pragma omp for
        for (int64_t place = 0; place < whole; place += WIDTH) (load(total + place) * times).store(sums + place);
        #pragma omp single
        for (int64_t place = whole; place < all; ++place) sums[place] = static_cast<float>(total[place]) * factor[0];
        const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
        for (int64_t row = 0; row < sizes[2]; ++row) {
            if (ids[row] % threads != me) continue;
            float* sum = sums + ids[row] * width;
            const float* some = rows + row * width;
            int64_t place = 0;
            for (; place + WIDTH <= width; place += WIDTH)
                (Pair::loadu(sum + place) + Pair::loadu(some + place)).store(sum + place);
            for (; place < width; ++place) sum[place] += some[place];
        }
    }
}
"""

pairs.add(rows=(("Value", "float", "int64_t", "float", "int64_t", "float"), _ROWS))

_library = torch.library.Library("kerasllm", "FRAGMENT")
_library.define("with_rows_added(Tensor total, Tensor rows, Tensor ids, Tensor? factor) -> Tensor")


def _with_rows_added(total, rows, ids, factor):
    ids, width = ids.reshape(-1), total.shape[1]
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(total):
        raise IndexError(f"rows {int(ids.min())} to {int(ids.max())} of a table of {len(total)}")
    factor = total.new_ones((), dtype=torch.float32) if factor is None else factor.float()
    sums = total.new_empty(total.shape, dtype=torch.float32)
    sizes = numbers(len(total), width, len(ids))
    given = [tensor.contiguous() for tensor in (total, rows.reshape(-1, width), ids.long(), factor)]
    pairs.of(total.dtype).call("rows", *given, sizes, sums)
    return sums


_library.impl("with_rows_added", _with_rows_added, "CPU")


@torch.library.register_fake("kerasllm::with_rows_added")
def _shape_with_rows(total, rows, ids, factor):
    return total.new_empty(total.shape, dtype=torch.float32)
