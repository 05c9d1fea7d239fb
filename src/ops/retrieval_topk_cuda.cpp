#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <tuple>

#include "kernels/retrieval/retrieval_topk.h"
#include "retrieval_checks.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

constexpr int64_t kWidthStep = 8;  // of the kernel's rows; shorter ones end in zeros

template <typename T>
const T* data(const MaybeTensor& x) {
  return x.has_value() ? x->const_data_ptr<T>() : nullptr;
}

MaybeTensor contiguous(const MaybeTensor& x) {
  return x.has_value() ? MaybeTensor(x->contiguous()) : std::nullopt;
}

// Whole vectors of 16 bytes from the first on.
at::Tensor in_vectors(const at::Tensor& x, int64_t width) {
  const int64_t missing = width - x.size(2);
  const at::Tensor rows = (missing > 0 ? at::constant_pad_nd(x, {0, missing}) : x).contiguous();
  return reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0 ? rows : rows.clone();
}

std::tuple<at::Tensor, at::Tensor> retrieval_topk_cuda(
    const at::Tensor& query, const at::Tensor& rows, const at::Tensor& count,
    const MaybeTensor& query_valid, const MaybeTensor& valid, int64_t slots, double temperature,
    const MaybeTensor& sample_ids, int64_t seed, int64_t purpose, int64_t step) {
  std::optional<RetrievalNoise> noise;
  if (sample_ids.has_value())
    noise = RetrievalNoise{static_cast<uint64_t>(seed), static_cast<Purpose>(purpose),
                           static_cast<uint64_t>(step), *sample_ids};
  check_retrieval_topk({query, rows, count, query_valid, valid}, {slots, temperature, noise});
  const int64_t batch = query.size(0), queries = query.size(1), tokens = rows.size(1);
  const int64_t width = (query.size(2) + kWidthStep - 1) / kWidthStep * kWidthStep;
  TORCH_CHECK(queries * width <= kernels::kRetrievalMaxQueryFloats && batch <= 65535,
              "retrieval_topk: on CUDA Q r is at most ", kernels::kRetrievalMaxQueryFloats,
              " and B at most 65535, got query ", query.sizes());
  const c10::cuda::CUDAGuard guard(query.device());
  const auto longs = query.options().dtype(at::kLong);
  at::Tensor index = at::empty({batch, slots}, longs);
  at::Tensor score = at::empty({batch, slots}, query.options().dtype(at::kFloat));
  if (batch * queries * tokens * width == 0)
    return {index.fill_(-1), score.fill_(-std::numeric_limits<float>::infinity())};
  const bool bf16 = rows.scalar_type() == at::kBFloat16;
  const at::Tensor q = in_vectors(query.to(at::kFloat), width);
  const at::Tensor stored = in_vectors(bf16 ? rows : rows.to(at::kFloat), width);
  const at::Tensor wanted = count.contiguous();
  const MaybeTensor of_queries = contiguous(query_valid), of_rows = contiguous(valid),
                    samples = contiguous(sample_ids);
  const kernels::RetrievalTopkSizes s{batch,
                                      queries,
                                      tokens,
                                      width,
                                      slots,
                                      rows.size(0) == batch,
                                      of_rows.has_value() && of_rows->size(0) == batch,
                                      static_cast<float>(1 / temperature)};
  at::Tensor workspace =
      at::empty({kernels::retrieval_topk_workspace_bytes(s)}, query.options().dtype(at::kByte));
  const bool sorted = slots <= kernels::kRetrievalMaxSorted;
  at::Tensor packed = sorted ? at::Tensor() : at::empty({batch, slots}, longs);
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  C10_CUDA_CHECK(kernels::launch_retrieval_topk(
      s,
      {q.const_data_ptr<float>(),
       data<bool>(of_queries),
       stored.const_data_ptr(),
       bf16 ? kernels::ElementType::kBFloat16 : kernels::ElementType::kFloat32,
       data<bool>(of_rows),
       wanted.const_data_ptr<int64_t>(),
       {static_cast<uint64_t>(seed), static_cast<uint64_t>(purpose), static_cast<uint64_t>(step),
        data<int64_t>(samples)}},
      index.mutable_data_ptr<int64_t>(), score.mutable_data_ptr<float>(),
      sorted ? nullptr : packed.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr(), stream));
  if (sorted) return {index, score};
  packed = std::get<0>(packed.sort(1, /*descending=*/true));
  C10_CUDA_CHECK(kernels::launch_retrieval_unpack(packed.numel(), packed.const_data_ptr<int64_t>(),
                                                  index.mutable_data_ptr<int64_t>(),
                                                  score.mutable_data_ptr<float>(), stream));
  return {index, score};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("retrieval_topk", retrieval_topk_cuda); }

}  // namespace dsrsq::ops
