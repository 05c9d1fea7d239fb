#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "dsrsq/core/random.h"
#include "kernels/retrieval/reservoir_update.h"
#include "retrieval_checks.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Result reservoir_update_cuda(const at::Tensor& held_in, const at::Tensor& rank_in,
                             const at::Tensor& valid_in, const MaybeTensor& log_weight,
                             int64_t capacity, double decay, const MaybeTensor& sample_ids,
                             int64_t seed, int64_t step, int64_t layers, int64_t layer) {
  std::optional<ReservoirNoise> noise;
  if (sample_ids.has_value())
    noise = ReservoirNoise{static_cast<uint64_t>(seed), static_cast<uint64_t>(step), layers, layer,
                           *sample_ids};
  check_reservoir_update({held_in, rank_in, valid_in, log_weight}, {capacity, decay, noise});
  const c10::cuda::CUDAGuard guard(held_in.device());
  const at::Tensor held = held_in.contiguous(), rank = rank_in.contiguous(),
                   valid = valid_in.contiguous();
  const at::Tensor weight = log_weight.has_value() ? log_weight->contiguous() : at::Tensor();
  const at::Tensor samples = sample_ids.has_value() ? sample_ids->contiguous() : at::Tensor();
  kernels::ReservoirSizes s{held.size(0), held.size(1), rank.size(1), 0, 0};
  s.kept = std::min(capacity, s.held + s.offered);
  s.accepted = std::min(s.offered, s.kept);
  at::Tensor source = at::empty({s.batch, s.kept}, rank.options());
  at::Tensor priority = at::empty({s.batch, s.kept}, held.options());
  at::Tensor accepted = at::empty({s.batch, s.accepted}, rank.options());
  at::Tensor slot = at::empty({s.batch, s.accepted}, rank.options());
  at::Tensor count = at::empty({s.batch}, rank.options());
  if (source.numel() == 0) return {source, priority, accepted, slot, count.zero_()};
  at::Tensor workspace =
      at::empty({kernels::reservoir_workspace_bytes(s)}, held.options().dtype(at::kByte));
  C10_CUDA_CHECK(kernels::launch_reservoir_update(
      s,
      {held.const_data_ptr<double>(),
       weight.defined() ? weight.const_data_ptr<double>() : nullptr,
       rank.const_data_ptr<int64_t>(),
       valid.const_data_ptr<bool>(),
       decay,
       {static_cast<uint64_t>(seed), static_cast<uint64_t>(Purpose::kReservoir),
        static_cast<uint64_t>(step),
        samples.defined() ? samples.const_data_ptr<int64_t>() : nullptr, layers, layer}},
      {source.mutable_data_ptr<int64_t>(), priority.mutable_data_ptr<double>(),
       accepted.mutable_data_ptr<int64_t>(), slot.mutable_data_ptr<int64_t>(),
       count.mutable_data_ptr<int64_t>()},
      workspace.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream()));
  return {source, priority, accepted, slot, count};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("reservoir_update", reservoir_update_cuda); }

}  // namespace dsrsq::ops
