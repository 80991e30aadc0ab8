"""Sums over rows, such as a bias' gradient, within a kernel that makes the rows: nothing is read for them."""

COLUMN_SUMS = """
#pragma GCC push_options
#pragma GCC optimize("tree-loop-vectorize")  // which the compiler's own kernels are built without
static void add_to(float* sums, const float* some, int64_t count) {
    #pragma omp simd
    for (int64_t place = 0; place < count; ++place) sums[place] += some[place];
}
static void add_scaled(float* sums, const float* some, float factor, int64_t count) {
    #pragma omp simd
    for (int64_t place = 0; place < count; ++place) sums[place] += some[place] * factor;
}
#pragma GCC pop_options

// Of all threads, added in one order.
class ColumnSums {
    std::vector<float> all;

  public:
    const int64_t width;
    explicit ColumnSums(int64_t width) : all(omp_get_max_threads() * width), width(width) {}
    float* of_thread() { return all.data() + omp_get_thread_num() * width; }
    void write(float* found) const {
        std::fill(found, found + width, 0.f);
        for (size_t start = 0; start < all.size(); start += width) add_to(found, all.data() + start, width);
    }
};

// Of a thread, which adds its rows to `data` and says how many: sums of sums of so many, or of all it adds at once, to
// lose fewer digits.
class RowSums {
    static constexpr int64_t ROWS = 64;
    ColumnSums& all;
    Room<float> recent;
    int64_t rows = 0;
    void pass_on() {
        add_to(all.of_thread(), data(), all.width);
        std::fill(data(), data() + all.width, 0.f);
        rows = 0;
    }

  public:
    explicit RowSums(ColumnSums& all) : all(all), recent(all.width) {}
    ~RowSums() { pass_on(); }
    float* data() { return recent.data(); }
    void next(int64_t count = 1) { if ((rows += count) >= ROWS) pass_on(); }
};
"""
"""C++ in the terms of `torch_built.PairKernels`."""
