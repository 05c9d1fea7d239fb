// One parallel region over the sequences. A product and a sum stay two operations here
// (src/CMakeLists.txt): priorities are to be the same bits as on a GPU.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "dsrsq/core/random.h"
#include "retrieval_checks.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

struct Arguments {
  int64_t held, offered, kept, most_accepted;
  const double* held_priority;  // [B, H]
  const int64_t* rank;          // [B, E]
  const bool* valid;            // [B, E]
  const double* log_weight;     // [B, E] or null
  double decay;
  const int64_t* sample_ids;  // [B] or null: no noise
  uint64_t seed, step;
  int64_t layers, layer;
  int64_t* source;
  double* priority;
  int64_t* accepted;
  int64_t* slot;
  int64_t* count;
};

void fill_priorities(const Arguments& a, int64_t b, std::vector<double>& priority) {
  std::copy(a.held_priority + b * a.held, a.held_priority + (b + 1) * a.held, priority.begin());
  std::optional<RandomStream> noise;
  if (a.sample_ids != nullptr)
    noise.emplace(a.seed, Purpose::kReservoir, a.step, static_cast<uint64_t>(a.sample_ids[b]));
  for (int64_t j = 0; j < a.offered; ++j) {
    const int64_t entry = b * a.offered + j;
    double& own = priority[static_cast<size_t>(a.held + j)];
    own = -std::numeric_limits<double>::infinity();
    if (!a.valid[entry]) continue;
    const double aged = static_cast<double>(a.rank[entry]) * a.decay;
    own = (a.log_weight == nullptr ? 0. : a.log_weight[entry]) + aged;
    if (!noise) continue;
    const auto place = static_cast<uint64_t>(a.rank[entry]) * static_cast<uint64_t>(a.layers);
    own += noise->gumbel(place + static_cast<uint64_t>(a.layer));
  }
}

void update(const Arguments& a, int64_t b, std::vector<double>& priority,
            std::vector<int64_t>& order) {
  fill_priorities(a, b, priority);
  std::iota(order.begin(), order.end(), int64_t{0});
  // Larger first, of equal ones the earlier; not a number is the smallest.
  const auto before = [&](int64_t x, int64_t y) {
    const double p = priority[static_cast<size_t>(x)], q = priority[static_cast<size_t>(y)];
    if (p > q || p < q) return p > q;
    const bool p_is_number = p == p, q_is_number = q == q;
    return p_is_number != q_is_number ? p_is_number : x < y;
  };
  if (a.kept < static_cast<int64_t>(order.size()))
    std::nth_element(order.begin(), order.begin() + a.kept, order.end(), before);
  std::sort(order.begin(), order.begin() + a.kept);  // entries stand oldest first
  int64_t accepted = 0;
  for (int64_t i = 0; i < a.kept; ++i) {
    const int64_t from = order[static_cast<size_t>(i)], to = b * a.kept + i;
    a.priority[to] = priority[static_cast<size_t>(from)];
    a.source[to] = from < a.held ? from : a.held + accepted;
    if (from < a.held) continue;
    a.accepted[b * a.most_accepted + accepted] = from - a.held;
    a.slot[b * a.most_accepted + accepted] = i;
    ++accepted;
  }
  a.count[b] = accepted;
  for (int64_t j = accepted; j < a.most_accepted; ++j)
    a.accepted[b * a.most_accepted + j] = a.slot[b * a.most_accepted + j] = -1;
}

Result reservoir_update_cpu(const at::Tensor& held_in, const at::Tensor& rank_in,
                            const at::Tensor& valid_in, const MaybeTensor& log_weight,
                            int64_t capacity, double decay, const MaybeTensor& sample_ids,
                            int64_t seed, int64_t step, int64_t layers, int64_t layer) {
  std::optional<ReservoirNoise> noise;
  if (sample_ids.has_value())
    noise = ReservoirNoise{static_cast<uint64_t>(seed), static_cast<uint64_t>(step), layers, layer,
                           *sample_ids};
  check_reservoir_update({held_in, rank_in, valid_in, log_weight}, {capacity, decay, noise});
  const at::Tensor held = held_in.contiguous(), rank = rank_in.contiguous(),
                   valid = valid_in.contiguous();
  const at::Tensor weight = log_weight.has_value() ? log_weight->contiguous() : at::Tensor();
  const at::Tensor samples = sample_ids.has_value() ? sample_ids->contiguous() : at::Tensor();
  const int64_t batch = held.size(0), all = held.size(1) + rank.size(1);
  const int64_t kept = std::min(capacity, all), most_accepted = std::min(rank.size(1), kept);
  at::Tensor source = at::empty({batch, kept}, rank.options());
  at::Tensor priority = at::empty({batch, kept}, held.options());
  at::Tensor accepted = at::empty({batch, most_accepted}, rank.options());
  at::Tensor slot = at::empty({batch, most_accepted}, rank.options());
  at::Tensor count = at::empty({batch}, rank.options());
  const Arguments a{held.size(1),
                    rank.size(1),
                    kept,
                    most_accepted,
                    held.const_data_ptr<double>(),
                    rank.const_data_ptr<int64_t>(),
                    valid.const_data_ptr<bool>(),
                    weight.defined() ? weight.const_data_ptr<double>() : nullptr,
                    decay,
                    samples.defined() ? samples.const_data_ptr<int64_t>() : nullptr,
                    static_cast<uint64_t>(seed),
                    static_cast<uint64_t>(step),
                    layers,
                    layer,
                    source.mutable_data_ptr<int64_t>(),
                    priority.mutable_data_ptr<double>(),
                    accepted.mutable_data_ptr<int64_t>(),
                    slot.mutable_data_ptr<int64_t>(),
                    count.mutable_data_ptr<int64_t>()};
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> priorities(static_cast<size_t>(all));
    std::vector<int64_t> order(static_cast<size_t>(all));
    for (int64_t b = begin; b < end; ++b) update(a, b, priorities, order);
  });
  return {source, priority, accepted, slot, count};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("reservoir_update", reservoir_update_cpu); }

}  // namespace dsrsq::ops
