"""C++ of attention, for `torch_attention`; `Value`, `Pair` and so on are those of `torch_built.PairKernels`."""

SHARED = """
constexpr int64_t ROWS = 32;  // of scores that are there at a time

#pragma GCC push_options
#pragma GCC optimize("tree-loop-vectorize")
// Scaled scores; what is masked far below all others.
static void add_mask(float* scores, float scale, const bool* mask, int64_t count) {
    const auto* allowed = reinterpret_cast<const uint8_t*>(mask);
    for (int64_t place = 0; place < count; ++place)
        scores[place] = scores[place] * scale + (allowed[place] * 1e30f - 1e30f);
}

struct Sizes {
    int64_t batch, heads, length, width, is_causal, has_mask, mask_batch, mask_row, least;
    float scale, stays;
    uint32_t key;
    Sizes(const int64_t* s, const int64_t* seed, const float* kept)
        : batch(s[0]), heads(s[1]), length(s[2]), width(s[3]), is_causal(s[4]), has_mask(s[5]), mask_batch(s[6]),
          mask_row(s[7]), least(s[8]), scale(1 / std::sqrt(static_cast<float>(s[3]))), stays(1 / kept[0]),
          key(key_of(seed)) {}

    // What dropout multiplies probabilities by: element `first` of them all, the one `step` after it, and so on.
    void draw(int64_t first, int64_t step, int64_t count, float* factors) const {
        const uint32_t start = static_cast<uint32_t>(first), apart = static_cast<uint32_t>(step), salt = key;
        const int32_t limit = static_cast<int32_t>(least), last = static_cast<int32_t>(count);
        const float kept = stays;
        for (int32_t place = 0; place < last; ++place) {
            const int32_t draw = draw_of(start + static_cast<uint32_t>(place) * apart, salt);
            factors[place] = draw >= limit ? kept : 0.f;
        }
    }
};
#pragma GCC pop_options

static float sum_of_products(const Value* one, const Value* other, int64_t width) {
    Pair sum(0.f);
    int64_t column = 0;
    for (; column + WIDTH <= width; column += WIDTH) sum = sum + load(one + column) * load(other + column);
    float found = sum_of(sum);
    for (; column < width; ++column) found += static_cast<float>(one[column]) * static_cast<float>(other[column]);
    return found;
}
"""

# Of each row the highest score and the sum of exponentials are kept, from which the backward pass makes the
# probabilities again.
FORWARD = """
// The numerators of the probabilities of a row's scores 0 to `seen`, dropped out; 0 up to `end`. Returns their sum.
static float numerators(float* scores, const Sizes& sizes, int64_t seen, int64_t end, const bool* mask,
                        const float* factors, Value* found, float* normalizers) {
    if (mask) add_mask(scores, sizes.scale, mask, seen);
    const Pair scale(mask ? 1.f : sizes.scale);
    std::fill(scores + seen, scores + end, -std::numeric_limits<float>::infinity());
    Pair most(-std::numeric_limits<float>::infinity()), sum(0.f);
    for (int64_t key = 0; key < end; key += WIDTH) {
        const Pair scaled = Pair::loadu(scores + key) * scale;
        scaled.store(scores + key);
        most = at::vec::maximum(most, scaled);
    }
    const float highest = highest_of(most);
    for (int64_t key = 0; key < end; key += WIDTH) {
        Pair some = exponential(Pair::loadu(scores + key) - Pair(highest));
        sum = sum + some;
        if (factors) some = some * Pair::loadu(factors + key);
        store(some, found + key);
    }
    normalizers[0] = highest;
    return normalizers[1] = sum_of(sum);
}

extern "C" void kernel(const Value* projected, const bool* masks, const int64_t* given, const int64_t* seed,
                       const float* kept, Value* attended, float* normalizers) {
    const Sizes sizes(given, seed, kept);
    const int64_t length = sizes.length, width = sizes.width, all = sizes.heads * width, stride = 3 * all;
    const int64_t apart = apart_for(length), wide = whole(width);
    probe();
    #pragma omp parallel
    {
        Room<Value> keys(even(width) * apart), values(even(length) * wide), shares(ROWS * apart);
        Room<float> scores(ROWS * apart), found(ROWS * wide), factors(apart);
        #pragma omp for
        for (int64_t number = 0; number < sizes.batch * sizes.heads; ++number) {
            const int64_t batch = number / sizes.heads, head = number % sizes.heads;
            const Value* query = projected + batch * length * stride + head * width;
            columns_as_factor(query + all, stride, length, width, keys.data(), apart);
            rows_as_factor(query + 2 * all, stride, length, width, values.data(), wide);
            for (int64_t row = 0; row < length; row += ROWS) {
                const int64_t rows = std::min<int64_t>(ROWS, length - row);
                const int64_t last = sizes.is_causal ? row + rows : length;
                multiply(rows, last, width, query + row * stride, stride, keys.data(), apart, scores.data(), apart);
                float sums[ROWS];
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t place = number * length + row + r, seen = sizes.is_causal ? row + r + 1 : length;
                    const bool* mask = sizes.has_mask
                        ? masks + batch * sizes.mask_batch + (row + r) * sizes.mask_row : nullptr;
                    if (sizes.least) sizes.draw(place * length, 1, seen, factors.data());
                    sums[r] = numerators(scores.data() + r * apart, sizes, seen, whole(last), mask,
                                         sizes.least ? factors.data() : nullptr, shares.data() + r * apart,
                                         normalizers + 2 * place);
                }
                multiply(rows, width, last, shares.data(), apart, values.data(), wide, found.data(), wide);
                for (int64_t r = 0; r < rows; ++r)
                    scatter(found.data() + r * wide, wide, 1, width, 1 / sums[r],
                            attended + (batch * length + row + r) * all + head * width, all);
            }
        }
        at::native::cpublas::brgemm_release(IS_HALF);
    }
}
"""

# By keys and not by queries: the scores' rows and those of their gradients are then the columns that the products for
# keys and values ask for, and a row's own normalizers lie side by side.
BACKWARD = """
// Also adds what it writes, before it is rounded, to the sums over the rows.
static void put(const float* from, int64_t apart, int64_t rows, int64_t width, float factor, Value* to, int64_t stride,
                float* sums) {
    scatter(from, apart, rows, width, factor, to, stride);
    for (int64_t row = 0; row < rows; ++row) add_scaled(sums, from + row * apart, factor, width);
}

extern "C" void kernel(const Value* projected, const bool* masks, const int64_t* given, const int64_t* seed,
                       const float* kept, const Value* attended, const float* normalizers, const Value* upstream,
                       Value* slopes, float* sums) {
    const Sizes sizes(given, seed, kept);
    const int64_t length = sizes.length, width = sizes.width, all = sizes.heads * width, stride = 3 * all;
    const int64_t apart = apart_for(length), wide = whole(width), together = IS_HALF ? 2 : 1;
    ColumnSums totals(stride);
    probe();
    #pragma omp parallel
    {
        RowSums summed(totals);
        Room<Value> turned_queries(even(width) * apart), turned_above(even(width) * apart),
            turned_keys(even(width) * apart), queries(even(length) * wide), above(even(length) * wide),
            probabilities(ROWS * apart), differences(ROWS * apart), paired(ROWS * apart),
            turning(even(length) * apart_for(width));
        Room<float> scores(ROWS * apart), others(ROWS * apart), found(std::max(ROWS, length) * wide),
            of_queries(width * apart), highest(apart), inverse(apart), means(apart), factors(apart);
        #pragma omp for schedule(static)
        for (int64_t number = 0; number < sizes.batch * sizes.heads; ++number) {
            const int64_t batch = number / sizes.heads, head = number % sizes.heads;
            const Value* query = projected + batch * length * stride + head * width;
            Value* slope = slopes + batch * length * stride + head * width;
            float* sum = summed.data() + head * width;
            const Value* over = upstream + batch * length * all + head * width;
            columns_as_first_factor(query + all, stride, length, width, turning.data(), turned_keys.data(), apart);
            columns_as_factor(query, stride, length, width, turned_queries.data(), apart);
            columns_as_factor(over, all, length, width, turned_above.data(), apart);
            rows_as_factor(query, stride, length, width, queries.data(), wide);
            rows_as_factor(over, all, length, width, above.data(), wide);
            for (int64_t row = 0; row < length; ++row) {
                const float* normalizer = normalizers + 2 * (number * length + row);
                const Value* under = attended + (batch * length + row) * all + head * width;
                highest.data()[row] = normalizer[0];
                inverse.data()[row] = 1 / normalizer[1];
                means.data()[row] = sum_of_products(over + row * all, under, width);
            }
            for (int64_t key = 0; key < length; key += ROWS) {
                const int64_t rows = std::min<int64_t>(ROWS, length - key), first = sizes.is_causal ? key : 0;
                const int64_t count = length - first, end = whole(count);
                multiply(rows, count, width, query + all + key * stride, stride,
                         turned_queries.data() + first * together, apart, scores.data(), apart);
                multiply(rows, count, width, query + 2 * all + key * stride, stride,
                         turned_above.data() + first * together, apart, others.data(), apart);
                for (int64_t r = 0; r < rows; ++r) {
                    float* some = scores.data() + r * apart;
                    Value* share = probabilities.data() + r * apart;
                    Value* difference = differences.data() + r * apart;
                    float scale = sizes.scale, hidden = 0;
                    const int64_t apart_in_mask = std::max<int64_t>(1, sizes.mask_row);
                    const bool* mask = masks + batch * sizes.mask_batch + (key + r) * apart_in_mask;
                    if (sizes.has_mask && sizes.mask_row) {
                        add_mask(some, scale, mask + first, count);
                        scale = 1;
                    } else if (sizes.has_mask && !*mask) hidden = -1e30f;
                    if (sizes.least)
                        sizes.draw((number * length + first) * length + key + r, length, count, factors.data());
                    for (int64_t place = 0; place < end; place += WIDTH) {
                        const Pair score = Pair::loadu(some + place) * Pair(scale) + Pair(hidden);
                        const Pair part = exponential(score - Pair::loadu(highest.data() + first + place))
                            * Pair::loadu(inverse.data() + first + place);
                        const Pair factor = sizes.least ? Pair::loadu(factors.data() + place) : Pair(1.f);
                        store(part * factor, share + place);
                        const Pair of_part = Pair::loadu(others.data() + r * apart + place) * factor;
                        store(part * (of_part - Pair::loadu(means.data() + first + place)), difference + place);
                    }
                    const int64_t unseen = sizes.is_causal ? r : 0;  // of the queries, by this key
                    for (Value* row : {share, difference}) {
                        std::fill(row, row + unseen, static_cast<Value>(0.f));
                        std::fill(row + count, row + end, static_cast<Value>(0.f));
                    }
                }
                multiply(rows, width, count, probabilities.data(), apart, above.data() + first * wide, wide,
                         found.data(), wide);
                put(found.data(), wide, rows, width, 1, slope + 2 * all + key * stride, stride, sum + 2 * all);
                multiply(rows, width, count, differences.data(), apart, queries.data() + first * wide, wide,
                         found.data(), wide);
                put(found.data(), wide, rows, width, sizes.scale, slope + all + key * stride, stride, sum + all);
                rows_as_factor(differences.data(), apart, rows, count, paired.data(), apart);
                multiply(width, count, rows, turned_keys.data() + key, apart, paired.data(), apart,
                         of_queries.data() + first, apart, key > 0);
            }
            turn(of_queries.data(), apart, width, length, found.data(), wide);
            put(found.data(), wide, length, width, sizes.scale, slope, stride, sum);
            summed.next(length);
        }
        at::native::cpublas::brgemm_release(IS_HALF);
    }
    totals.write(sums);
}
"""
