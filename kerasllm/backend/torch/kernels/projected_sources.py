"""C++ of a projection and its cross-entropy, for `torch_projected_losses`; its terms are `torch_built.PairKernels`'."""

SHARED = """
constexpr int64_t ROWS = 64;  // of a block's logits that are there at a time
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

struct Sizes {
    int64_t rows, width, classes, block, blocks, apart;
    bool has_bias, has_logits, has_weights, keeps, adds;
    explicit Sizes(const int64_t* s)
        : rows(s[0]), width(s[1]), classes(s[2]), block(s[3]), blocks((s[2] + s[3] - 1) / s[3]), apart(s[3] + WIDTH),
          has_bias(s[4]), has_logits(s[5]), has_weights(s[6]), keeps(s[7]), adds(s[8]) {}
};

// The numbers of the rows that weigh something.
static std::vector<int64_t> weighed(const Sizes& sizes, const float* weights) {
    std::vector<int64_t> found;
    for (int64_t row = 0; row < sizes.rows; ++row)
        if (!sizes.has_weights || weights[row] != 0) found.push_back(row);
    return found;
}

// These rows one after another; `all` itself, if they are all.
static const Value* collected(const Value* all, const Sizes& sizes, const std::vector<int64_t>& rows,
                              std::vector<Value>& room) {
    const int64_t count = rows.size(), width = sizes.width;
    if (count == sizes.rows) return all;
    room.resize(count * width);
    for (int64_t row = 0; row < count; ++row)
        std::copy(all + rows[row] * width, all + (rows[row] + 1) * width, room.data() + row * width);
    return room.data();
}
"""

# Of each row the weighted loss, and whether the label's logit is the highest: 1, 1/n if n share that, or 0. Kept are
# exponentials of the logits less the highest that a thread had seen by then, block by block, that highest, and, in
# `found`, of each row the highest of all, the sum of the exponentials of what all are less, and the label's logit.
LOSSES = """
static void add_bias(float* logits, const Value* bias, int64_t count) {
    int64_t place = 0;
    for (; place + WIDTH <= count; place += WIDTH)
        (Pair::loadu(logits + place) + load(bias + place)).store(logits + place);
    for (; place < count; ++place) logits[place] += static_cast<float>(bias[place]);
}

// What a thread has seen of a row.
struct Seen {
    float highest = NOTHING, total = 0, count = 0;  // of those that are the highest

    // Takes in logits, of which those after `count` up to a whole number of vectors are minus infinity.
    void add(const float* logits, int64_t number, Value* kept) {
        Pair most(NOTHING), sum(0.f);
        for (int64_t place = 0; place < number; place += WIDTH)
            most = at::vec::maximum(most, Pair::loadu(logits + place));
        const float found = highest_of(most);
        if (!(found < highest)) {  // rare, after the first blocks
            const float same = std::count(logits, logits + number, found);
            if (!(found == highest)) {
                total *= std::exp(highest - found);
                highest = found;
                count = 0;
            }
            count += same;
        }
        if (highest == NOTHING) {
            if (kept) std::fill(kept, kept + number, static_cast<Value>(0.f));
            return;
        }
        for (int64_t place = 0; place < number; place += WIDTH) {
            const Pair some = exponential(Pair::loadu(logits + place) - Pair(highest));
            sum = sum + some;
            if (kept) store(some, kept + place);
        }
        total += sum_of(sum);
    }
};

extern "C" void kernel(const Value* hidden, const Value* table, const Value* bias, const Value* logits,
                       const int64_t* labels, const float* weights, const int64_t* given, float* losses, float* hits,
                       Value* kept, float* highest, float* found) {
    const Sizes sizes(given);
    const std::vector<int64_t> numbers = weighed(sizes, weights);
    const int64_t count = numbers.size(), width = sizes.width;
    std::vector<Value> collecting;
    const Value* rows = collected(hidden, sizes, numbers, collecting);
    std::fill(losses, losses + sizes.rows, 0.f);
    std::fill(hits, hits + sizes.rows, 0.f);
    std::vector<std::vector<Seen>> by_thread(omp_get_max_threads());
    probe();
    #pragma omp parallel
    {
        std::vector<Seen>& seen = by_thread[omp_get_thread_num()];
        seen.resize(count);
        Room<Value> factor(even(width) * sizes.apart);
        Room<float> made(ROWS * sizes.apart);
        #pragma omp for schedule(static)
        for (int64_t number = 0; number < sizes.blocks; ++number) {
            const int64_t first = number * sizes.block, classes = std::min(sizes.block, sizes.classes - first);
            if (!sizes.has_logits)
                columns_as_factor(table + first * width, width, classes, width, factor.data(), sizes.apart);
            for (int64_t start = 0; start < count; start += ROWS) {
                const int64_t some = std::min(ROWS, count - start);
                if (!sizes.has_logits)
                    multiply(some, classes, width, rows + start * width, width, factor.data(), sizes.apart, made.data(),
                             sizes.apart);
                for (int64_t row = start; row < start + some; ++row) {
                    const int64_t at_row = numbers[row], place = number * sizes.rows + at_row;
                    const int64_t label = labels[at_row] - first;
                    float* some_logits = made.data() + (row - start) * sizes.apart;
                    if (sizes.has_logits) read(logits + at_row * sizes.classes + first, classes, some_logits);
                    else if (sizes.has_bias) add_bias(some_logits, bias + first, classes);
                    std::fill(some_logits + classes, some_logits + whole(classes), NOTHING);
                    if (label >= 0 && label < classes) found[2 * sizes.rows + at_row] = some_logits[label];
                    seen[row].add(some_logits, whole(classes), sizes.keeps ? kept + place * sizes.block : nullptr);
                    highest[place] = seen[row].highest;
                }
            }
        }
        at::native::cpublas::brgemm_release(IS_HALF);
    }
    for (int64_t row = 0; row < count; ++row) {
        float most = NOTHING, total = 0, same = 0;
        for (const auto& seen : by_thread)
            if (!seen.empty()) most = max_propagate_nan(most, seen[row].highest);
        for (const auto& seen : by_thread)
            if (!seen.empty() && seen[row].highest != NOTHING) {
                total += seen[row].total * std::exp(seen[row].highest - most);
                if (seen[row].highest == most) same += seen[row].count;
            }
        const int64_t at_row = numbers[row];
        const float chosen = found[2 * sizes.rows + at_row], weight = sizes.has_weights ? weights[at_row] : 1.f;
        found[at_row] = most;
        found[sizes.rows + at_row] = total;
        losses[at_row] = (std::log(total) + (most - chosen)) * weight;
        if (chosen == most) hits[at_row] = 1 / same;
    }
}
"""

# The gradients of the sum of all losses times their weights, of what the above was given: with the same weights, or
# with some where it had none.
SLOPES = """
extern "C" void kernel(const Value* hidden, const Value* table, const int64_t* labels, const float* weights,
                       const int64_t* given, const Value* kept, const float* highest, const float* found,
                       Value* of_hidden, Table* of_table, Value* of_bias) {
    const Sizes sizes(given);
    const std::vector<int64_t> numbers = weighed(sizes, weights);
    const int64_t count = numbers.size(), width = sizes.width, wide = whole(width), apart = apart_for(count);
    if (count == 0) {
        if (!sizes.adds) std::fill(of_table, of_table + sizes.classes * width, static_cast<Table>(0.f));
        if (sizes.has_bias) std::fill(of_bias, of_bias + sizes.classes, static_cast<Value>(0.f));
        return;
    }
    std::vector<Value> collecting;
    const Value* rows = collected(hidden, sizes, numbers, collecting);
    Room<Value> row_factor(even(count) * wide);
    rows_as_factor(rows, width, count, width, row_factor.data(), wide);
    const int64_t threads = omp_get_max_threads();
    Room<float> sums(threads * count * wide);  // 0, as all memory of a Room at first
    probe();
    #pragma omp parallel
    {
        float* sum = sums.data() + omp_get_thread_num() * count * wide;
        Room<Value> factor(even(sizes.block) * wide), slopes(ROWS * sizes.apart),
            turning(ROWS * apart_for(sizes.block)), turned(sizes.block * apart);
        Room<float> of_classes(sizes.block * wide), over_rows(sizes.apart);
        #pragma omp for schedule(static)
        for (int64_t number = 0; number < sizes.blocks; ++number) {
            const int64_t first = number * sizes.block, classes = std::min(sizes.block, sizes.classes - first);
            rows_as_factor(table + first * width, width, classes, width, factor.data(), wide);
            std::fill(over_rows.data(), over_rows.data() + sizes.apart, 0.f);
            for (int64_t start = 0; start < count; start += ROWS) {
                const int64_t some = std::min(ROWS, count - start);
                for (int64_t row = start; row < start + some; ++row) {
                    const int64_t at_row = numbers[row], place = number * sizes.rows + at_row;
                    const int64_t label = labels[at_row] - first;
                    const Value* from = kept + place * sizes.block;
                    Value* slope = slopes.data() + (row - start) * sizes.apart;
                    const float most = found[at_row], weight = weights[at_row];
                    const float share = weight / found[sizes.rows + at_row];
                    const float scale = std::exp(highest[place] - most) * share;
                    for (int64_t column = 0; column < classes; column += WIDTH) {
                        const Pair part = load(from + column) * Pair(scale);
                        store(part, slope + column);
                        if (!sizes.has_bias) continue;
                        (Pair::loadu(over_rows.data() + column) + part).store(over_rows.data() + column);
                    }
                    if (label >= 0 && label < classes) {
                        const float part = std::exp(found[2 * sizes.rows + at_row] - most) * share - weight;
                        over_rows.data()[label] += part - static_cast<float>(from[label]) * scale;
                        slope[label] = static_cast<Value>(part);
                    }
                }
                multiply(some, width, classes, slopes.data(), sizes.apart, factor.data(), wide, sum + start * wide,
                         wide, true);
                columns_as_first_factor(slopes.data(), sizes.apart, some, classes, turning.data(),
                                        turned.data() + start, apart);
            }
            if constexpr (std::is_same_v<Table, float>)
                multiply(classes, width, count, turned.data(), apart, row_factor.data(), wide,
                         reinterpret_cast<float*>(of_table) + first * width, width, sizes.adds);
            else {
                multiply(classes, width, count, turned.data(), apart, row_factor.data(), wide, of_classes.data(), wide);
                scatter(of_classes.data(), wide, classes, width, 1, reinterpret_cast<Value*>(of_table) + first * width,
                        width);
            }
            if (sizes.has_bias) scatter(over_rows.data(), 0, 1, classes, 1, of_bias + first, 0);
        }
        #pragma omp for schedule(static)
        for (int64_t row = 0; row < count; ++row) {
            for (int64_t other = 1; other < threads; ++other)
                for (int64_t column = 0; column < wide; column += WIDTH) {
                    float* to = sums.data() + row * wide + column;
                    (Pair::loadu(to) + Pair::loadu(to + other * count * wide)).store(to);
                }
            scatter(sums.data() + row * wide, 0, 1, width, 1, of_hidden + numbers[row] * width, 0);
        }
        at::native::cpublas::brgemm_release(IS_HALF);
    }
}
"""
