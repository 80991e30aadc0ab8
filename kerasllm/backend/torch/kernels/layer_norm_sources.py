"""C++ of layer normalisation, for `torch_layer_norm`; `Value`, `Pair` and so on are those of `PairKernels`."""

ROWS = """
// A row in float32: where it lies, or copied.
static const float* row_of(const Value* from, int64_t width, float* room) {
    if constexpr (std::is_same_v<Value, float>) return reinterpret_cast<const float*>(from);
    read(from, width, room);
    return room;
}
// Where one is to be made, and its way into memory.
static float* place_of(Value* to, float* room) {
    if constexpr (std::is_same_v<Value, float>) return reinterpret_cast<float*>(to);
    else return room;
}
static void write(const float* from, int64_t width, Value* to) {
    if constexpr (!std::is_same_v<Value, float>) {
        int64_t column = 0;
        for (; column + WIDTH <= width; column += WIDTH) store(Pair::loadu(from + column), to + column);
        for (; column < width; ++column) to[column] = static_cast<Value>(from[column]);
    }
}
"""

FORWARD = """
#pragma GCC push_options
#pragma GCC optimize("tree-loop-vectorize")  // which the compiler's own kernels are built without
static void add(const float* hidden, const float* branch, int64_t width, float* sums) {
    for (int64_t column = 0; column < width; ++column) sums[column] = hidden[column] + branch[column];
}
// With dropout; the first element of the row is this one of all.
static void add_dropped(const float* hidden, const float* branch, int32_t width, uint32_t first, uint32_t key,
                        int32_t least, float factor, uint8_t* stays, float* sums) {
    #pragma omp simd
    for (int32_t column = 0; column < width; ++column) {
        const int32_t stay = draw_of(first + static_cast<uint32_t>(column), key) >= least;
        stays[column] = static_cast<uint8_t>(stay);
        sums[column] = hidden[column] + branch[column] * (static_cast<float>(stay) * factor);
    }
}
// Also the mean and 1 / standard deviation of the row.
static void normalize(const float* x, int64_t width, float epsilon, const float* scale, const float* shift,
                      float* normal, float* statistics) {
    float mean = 0, variance = 0;
    #pragma omp simd reduction(+:mean)
    for (int64_t column = 0; column < width; ++column) mean += x[column];
    mean /= width;
    #pragma omp simd reduction(+:variance)
    for (int64_t column = 0; column < width; ++column) variance += (x[column] - mean) * (x[column] - mean);
    const float factor = 1 / std::sqrt(variance / width + epsilon);
    #pragma omp simd
    for (int64_t column = 0; column < width; ++column)
        normal[column] = (x[column] - mean) * factor * scale[column] + shift[column];
    statistics[0] = mean;
    statistics[1] = factor;
}
#pragma GCC pop_options

extern "C" void kernel(const Value* hidden, const Value* branch, const int64_t* sizes, const int64_t* seed,
                       const float* settings, const float* scale, const float* shift, Value* sums, uint8_t* stays,
                       Value* normals, float* statistics) {
    const int64_t rows = sizes[0], width = sizes[1];
    const bool has_branch = sizes[2];
    const int32_t least = static_cast<int32_t>(sizes[3]), count = static_cast<int32_t>(width);
    const uint32_t key = key_of(seed);
    const float epsilon = settings[0], factor = 1 / settings[1];
    #pragma omp parallel
    {
        Room<float> one(width), other(width), third(width);
        #pragma omp for
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t start = row * width;
            const float* x = row_of(hidden + start, width, one.data());
            if (has_branch) {
                const float* y = row_of(branch + start, width, other.data());
                float* sum = place_of(sums + start, third.data());
                const uint32_t first = static_cast<uint32_t>(start);
                if (least) add_dropped(x, y, count, first, key, least, factor, stays + start, sum);
                else add(x, y, width, sum);
                write(sum, width, sums + start);
                x = row_of(sums + start, width, one.data());  // as it was rounded
            }
            float* normal = place_of(normals + start, third.data());
            normalize(x, width, epsilon, scale, shift, normal, statistics + 2 * row);
            write(normal, width, normals + start);
        }
    }
}
"""

# Also the sums over all rows of the gradients of scale, shift and branch.
BACKWARD = """
#pragma GCC push_options
#pragma GCC optimize("tree-loop-vectorize")
// Of a row; also adds to the gradients of the weights.
static void slopes_of(const float* x, const float* upstream, const float* scale, const float* statistics,
                      int64_t width, float* normal, float* scaled, float* of_scale, float* of_shift, float* found) {
    const float mean = statistics[0], factor = statistics[1];
    float along = 0, among = 0;
    #pragma omp simd reduction(+:along, among)
    for (int64_t column = 0; column < width; ++column) {
        const float there = (x[column] - mean) * factor, given = upstream[column], here = given * scale[column];
        normal[column] = there;
        scaled[column] = here;
        along += here * there;
        among += here;
        of_scale[column] += given * there;
        of_shift[column] += given;
    }
    along /= width;
    among /= width;
    #pragma omp simd
    for (int64_t column = 0; column < width; ++column)
        found[column] = factor * (scaled[column] - among - normal[column] * along);
}
static void drop(const float* from, const uint8_t* stays, float factor, int64_t width, float* to) {
    #pragma omp simd
    for (int64_t column = 0; column < width; ++column)
        to[column] = from[column] * (static_cast<float>(stays[column]) * factor);
}
#pragma GCC pop_options

extern "C" void kernel(const Value* upstream, const Value* upstream_of_sums, const Value* sums, const uint8_t* stays,
                       const float* statistics, const float* scale, const int64_t* sizes, const float* settings,
                       Value* of_sums, Value* of_branch, float* of_weights) {
    const int64_t rows = sizes[0], width = sizes[1];
    const bool has_upstream_of_sums = sizes[2], has_dropout = sizes[3];
    const float factor = 1 / settings[0];
    ColumnSums totals(3 * width);
    #pragma omp parallel
    {
        RowSums summed(totals);
        Room<float> one(width), other(width), third(width), fourth(width);
        #pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t start = row * width;
            const float* x = row_of(sums + start, width, one.data());
            const float* slope = row_of(upstream + start, width, other.data());
            float *found = place_of(of_sums + start, fourth.data()), *of_scale = summed.data();
            slopes_of(x, slope, scale, statistics + 2 * row, width, third.data(), fourth.data(), of_scale,
                      of_scale + width, found);
            if (has_upstream_of_sums) add_to(found, row_of(upstream_of_sums + start, width, one.data()), width);
            write(found, width, of_sums + start);
            if (has_dropout) {
                float* dropped = place_of(of_branch + start, one.data());
                drop(found, stays + start, factor, width, dropped);
                write(dropped, width, of_branch + start);
                found = dropped;
            }
            add_to(of_scale + 2 * width, found, width);
            summed.next();
        }
    }
    totals.write(of_weights);
}
"""
