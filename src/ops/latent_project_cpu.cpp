// One parallel region: a thread brings the heads of some tokens side by side in its cache and
// multiplies them with the weight, packed as products want it; rows go straight to their slots.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "cpu_stages.h"
#include "cpu_tiles.h"
#include "latent_project_backend.h"

namespace dsrsq::ops {
namespace {

constexpr int64_t kRows = 60;  // of a task

constexpr int64_t padded(int64_t columns) { return panels(columns) * kPanel; }

// Row t of sequence b: runs of `run` numbers, contiguous.
struct Rows {
  explicit Rows(const at::Tensor& source)
      : x(source.stride(-1) == 1 ? source : source.contiguous()),
        by_head(x.dim() == 4),
        runs(by_head ? x.size(1) : 1),
        run(x.size(-1)),
        batch_stride(x.stride(0)),
        run_stride(by_head ? x.stride(1) : 0),
        token_stride(x.stride(by_head ? 2 : 1)) {}

  void read(int64_t b, int64_t t, float* to) const {
    const int64_t at = b * batch_stride + t * token_stride;
    if (x.scalar_type() == at::kBFloat16) {
      return read(x.const_data_ptr<at::BFloat16>() + at, to);
    }
    if (x.scalar_type() == at::kHalf) return read(x.const_data_ptr<at::Half>() + at, to);
    read(x.const_data_ptr<float>() + at, to);
  }

  at::Tensor x;
  bool by_head;
  int64_t runs, run, batch_stride, run_stride, token_stride;

 private:
  template <typename T>
  void read(const T* from, float* to) const {
    for (int64_t h = 0; h < runs; ++h)
      for (int64_t i = 0; i < run; ++i)
        to[h * run + i] = static_cast<float>(from[h * run_stride + i]);
  }
};

template <typename T>
void write_row(const float* from, T* to, int64_t width) {
  for (int64_t k = 0; k < width; ++k) to[k] = static_cast<T>(from[k]);
}

void latent_project_into_cpu(const LatentProjectInputs& in, const at::Tensor& slots_in,
                             at::Tensor& keys, at::Tensor& values) {
  if (in.source.scalar_type() == at::kDouble)
    return latent_project_plain(in, slots_in, keys, values);
  const LatentProjectShape s = check_latent_project(in);
  const Rows key_rows(in.source), value_rows(in.value_source.value_or(in.source));
  const bool twice = in.value_source.has_value();
  const at::Tensor weight = in.weight.to(at::kFloat).contiguous();
  const at::Tensor bias = in.bias.has_value() ? in.bias->contiguous() : at::Tensor();
  const at::Tensor slots = slots_in.defined() ? slots_in.contiguous() : at::Tensor();
  const int64_t wide = padded(s.width), length = keys.size(1);
  at::Tensor packed = at::empty({2, s.inner, wide}, weight.options());  // the weight, transposed
  float* right = packed.mutable_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  const auto pack = [&](int64_t task, Scratch&) {
    const int64_t side = task / s.inner, i = task % s.inner;
    float* row = right + task * wide;
    std::fill_n(row, wide, 0.f);
    for (int64_t k = 0; k < s.width; ++k) row[k] = w[(side * s.width + k) * s.inner + i];
  };
  const auto project = [&](int64_t task, Scratch& scratch) {
    const int64_t first = task * kRows, rows = std::min(kRows, s.batch * s.tokens - first);
    float* left = scratch.take<float>(rows * s.inner);
    float* latents = scratch.take<float>(rows * wide);
    for (int side = 0; side < 2; ++side) {
      const Rows& source = side == 0 ? key_rows : value_rows;
      if (side == 0 || twice)
        for (int64_t r = 0; r < rows; ++r)
          source.read((first + r) / s.tokens, (first + r) % s.tokens, left + r * s.inner);
      cpu_tiles().multiply({.rows = rows,
                            .inner = s.inner,
                            .panels = panels(s.width),
                            .a = left,
                            .a_row = s.inner,
                            .a_inner = 1,
                            .b = right + side * s.inner * wide,
                            .b_panel = kPanel,
                            .b_inner = wide,
                            .c = latents,
                            .c_row = wide});
      at::Tensor& buffer = side == 0 ? keys : values;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t b = (first + r) / s.tokens, t = (first + r) % s.tokens;
        const int64_t slot =
            slots.defined() ? slots.const_data_ptr<int64_t>()[b * s.tokens + t] : t;
        if (slot < 0 || slot >= length) continue;
        float* row = latents + r * wide;
        if (bias.defined())
          for (int64_t k = 0; k < s.width; ++k)
            row[k] += bias.const_data_ptr<float>()[side * s.width + k];
        const int64_t at = (b * length + slot) * s.width;
        if (buffer.scalar_type() == at::kBFloat16) {
          write_row(row, buffer.mutable_data_ptr<at::BFloat16>() + at, s.width);
        } else {
          write_row(row, buffer.mutable_data_ptr<float>() + at, s.width);
        }
      }
    }
  };
  run_stages({{2 * s.inner, pack}, {(s.batch * s.tokens + kRows - 1) / kRows, project}});
}

const bool kRegistered = [] {
  latent_project_backend(at::kCPU) = latent_project_into_cpu;
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
