// One parallel region: a thread scores runs of rows and keeps the best of each sequence; at the end
// what the threads kept is joined.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "dsrsq/core/random.h"
#include "retrieval_checks.h"
#include "target_clones.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

constexpr int64_t kRows = 512;  // scored at a time
constexpr int64_t kLanes = 16;  // sums side by side: a vector of the widest instruction set

DSRSQ_TARGET_CLONES void score_rows(int64_t width, const float* q, const float* rows, int64_t count,
                                    float* score) {
  for (int64_t r = 0; r < count; ++r, rows += width) {
    float sum[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) sum[j] += q[i + j] * rows[i + j];
    }
    for (int64_t j = 0; i + j < width; ++j) sum[j] += q[i + j] * rows[i + j];
    float total = 0;
    for (int64_t j = 0; j < kLanes; ++j) total += sum[j];
    score[r] = total;
  }
}
DSRSQ_TARGET_CLONES void score_rows_bf16(int64_t width, const float* q, const at::BFloat16* rows,
                                         int64_t count, float* score) {
  for (int64_t r = 0; r < count; ++r, rows += width) {
    float sum[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) {
        sum[j] += q[i + j] * std::bit_cast<float>(uint32_t{rows[i + j].x} << 16);
      }
    }
    for (int64_t j = 0; i + j < width; ++j) {
      sum[j] += q[i + j] * std::bit_cast<float>(uint32_t{rows[i + j].x} << 16);
    }
    float total = 0;
    for (int64_t j = 0; j < kLanes; ++j) total += sum[j];
    score[r] = total;
  }
}

// A score and its row as one number: larger for larger scores and, of equal ones, for lower
// positions. Never 0.
uint64_t pack(float score, int64_t position) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.f);  // the sum makes one zero of two
  const uint32_t order = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return uint64_t{order} << 32 | (0xffffffffu - static_cast<uint32_t>(position));
}

// The `wanted` largest of what it is given.
class Largest {
 public:
  explicit Largest(int64_t wanted) : wanted_(static_cast<size_t>(wanted)) {}

  void add(uint64_t value) {
    if (value <= least_ || wanted_ == 0) return;
    values_.push_back(value);
    if (values_.size() >= 2 * wanted_ + kRoom) drop();
  }
  void add(const std::vector<uint64_t>& values) {
    for (const uint64_t value : values) add(value);
  }
  std::vector<uint64_t> take() {
    drop();
    return std::move(values_);
  }

 private:
  static constexpr size_t kRoom = 64;

  void drop() {
    if (values_.size() <= wanted_) return;
    const auto last = values_.begin() + static_cast<int64_t>(wanted_) - 1;
    std::nth_element(values_.begin(), last, values_.end(), std::greater<>());
    values_.resize(wanted_);
    least_ = values_.back();
  }

  size_t wanted_;
  uint64_t least_ = 0;
  std::vector<uint64_t> values_;
};

struct Arguments {
  int64_t batch, queries, tokens, width, slots;
  bool rows_by_batch, valid_by_batch;
  float scale;
  const float* query;
  const void* rows;  // fp32 or bf16
  bool bf16;
  const int64_t* count;
  const bool* query_valid;    // or null
  const bool* valid;          // or null
  const int64_t* sample_ids;  // or null: no noise
  uint64_t seed, step;
  Purpose purpose;

  int64_t wanted(int64_t b) const { return std::clamp<int64_t>(count[b], 0, slots); }
  int64_t blocks() const { return (tokens + kRows - 1) / kRows; }
};

// Scores rows [first, first + count) of sequence b with the best of its queries.
void best_scores(const Arguments& a, int64_t b, int64_t first, int64_t count, float* best) {
  float score[kRows];
  std::fill(best, best + count, -std::numeric_limits<float>::infinity());
  const int64_t offset = ((a.rows_by_batch ? b * a.tokens : 0) + first) * a.width;
  for (int64_t q = 0; q < a.queries; ++q) {
    if (a.query_valid != nullptr && !a.query_valid[b * a.queries + q]) continue;
    const float* query = a.query + (b * a.queries + q) * a.width;
    if (a.bf16) {
      score_rows_bf16(a.width, query, static_cast<const at::BFloat16*>(a.rows) + offset, count,
                      score);
    } else {
      score_rows(a.width, query, static_cast<const float*>(a.rows) + offset, count, score);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (score[i] > best[i]) best[i] = score[i];
    }
  }
}

void add_rows(const Arguments& a, int64_t b, int64_t first, Largest& largest) {
  float best[kRows];
  const int64_t count = std::min(kRows, a.tokens - first);
  best_scores(a, b, first, count, best);
  std::optional<RandomStream> noise;
  if (a.sample_ids != nullptr)
    noise.emplace(a.seed, a.purpose, a.step, static_cast<uint64_t>(a.sample_ids[b]));
  const bool* valid =
      a.valid == nullptr ? nullptr : a.valid + (a.valid_by_batch ? b * a.tokens : 0) + first;
  for (int64_t i = 0; i < count; ++i) {
    float score = best[i] * a.scale;
    if ((valid != nullptr && !valid[i]) || !(score > -std::numeric_limits<float>::infinity())) {
      continue;
    }
    if (noise) {
      const auto position = static_cast<uint64_t>(first + i);
      score = static_cast<float>(static_cast<double>(score) + noise->gumbel(position));
    }
    largest.add(pack(score, first + i));
  }
}

void write(const std::vector<uint64_t>& packed, int64_t slots, int64_t* index, float* score) {
  std::fill(index, index + slots, int64_t{-1});
  std::fill(score, score + slots, -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < packed.size(); ++i) {
    const auto order = static_cast<uint32_t>(packed[i] >> 32);
    index[i] = int64_t{0xffffffffu - static_cast<uint32_t>(packed[i])};
    score[i] = std::bit_cast<float>(order >> 31 ? order ^ 0x80000000u : ~order);
  }
}

void select(const Arguments& a, int64_t* index, float* score) {
  const int64_t blocks = a.blocks();
  // What a thread kept of a sequence, at the first block of it that it read.
  std::vector<std::vector<uint64_t>> kept(static_cast<size_t>(a.batch * blocks));
  at::parallel_for(0, a.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t b = begin / blocks, stop = std::min(end, (b + 1) * blocks);
      Largest largest(a.wanted(b));
      for (int64_t i = begin; i < stop; ++i) add_rows(a, b, i % blocks * kRows, largest);
      kept[static_cast<size_t>(begin)] = largest.take();
      begin = stop;
    }
  });
  for (int64_t b = 0; b < a.batch; ++b) {
    Largest largest(a.wanted(b));
    for (int64_t i = b * blocks; i < (b + 1) * blocks; ++i)
      largest.add(kept[static_cast<size_t>(i)]);
    auto packed = largest.take();
    std::sort(packed.begin(), packed.end(), std::greater<>());
    write(packed, a.slots, index + b * a.slots, score + b * a.slots);
  }
}

template <typename T>
const T* data(const MaybeTensor& x) {
  return x.has_value() ? x->const_data_ptr<T>() : nullptr;
}

MaybeTensor contiguous(const MaybeTensor& x) {
  return x.has_value() ? MaybeTensor(x->contiguous()) : std::nullopt;
}

std::tuple<at::Tensor, at::Tensor> retrieval_topk_cpu(
    const at::Tensor& query, const at::Tensor& rows, const at::Tensor& count,
    const MaybeTensor& query_valid, const MaybeTensor& valid, int64_t slots, double temperature,
    const MaybeTensor& sample_ids, int64_t seed, int64_t purpose, int64_t step) {
  std::optional<RetrievalNoise> noise;
  if (sample_ids.has_value())
    noise = RetrievalNoise{static_cast<uint64_t>(seed), static_cast<Purpose>(purpose),
                           static_cast<uint64_t>(step), *sample_ids};
  check_retrieval_topk({query, rows, count, query_valid, valid}, {slots, temperature, noise});
  const bool bf16 = rows.scalar_type() == at::kBFloat16;
  const at::Tensor q = query.to(at::kFloat).contiguous();
  const at::Tensor stored = (bf16 ? rows : rows.to(at::kFloat)).contiguous();
  const at::Tensor wanted = count.contiguous();
  const MaybeTensor of_queries = contiguous(query_valid), of_rows = contiguous(valid),
                    samples = contiguous(sample_ids);
  at::Tensor index = at::empty({query.size(0), slots}, query.options().dtype(at::kLong));
  at::Tensor score = at::empty({query.size(0), slots}, query.options().dtype(at::kFloat));
  select({query.size(0), query.size(1), rows.size(1), query.size(2), slots,
          rows.size(0) == query.size(0), of_rows.has_value() && of_rows->size(0) == query.size(0),
          static_cast<float>(1 / temperature), q.const_data_ptr<float>(), stored.const_data_ptr(),
          bf16, wanted.const_data_ptr<int64_t>(), data<bool>(of_queries), data<bool>(of_rows),
          data<int64_t>(samples), static_cast<uint64_t>(seed), static_cast<uint64_t>(step),
          static_cast<Purpose>(purpose)},
         index.mutable_data_ptr<int64_t>(), score.mutable_data_ptr<float>());
  return {index, score};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("retrieval_topk", retrieval_topk_cpu); }

}  // namespace dsrsq::ops
