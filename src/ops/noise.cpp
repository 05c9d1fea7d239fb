#include "dsrsq/ops/noise.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

namespace dsrsq::ops {

namespace {
double draw(const RandomStream& stream, Noise kind, uint64_t position) {
  switch (kind) {
    case Noise::kUniform:
      return stream.uniform(position);
    case Noise::kNormal:
      return stream.normal(position);
    case Noise::kGumbel:
      return stream.gumbel(position);
  }
  TORCH_INTERNAL_ASSERT(false, "unknown noise");
}
}  // namespace

at::Tensor noise(Noise kind, uint64_t seed, Purpose purpose, uint64_t step,
                 const std::vector<int64_t>& sample_ids, int64_t size, at::Device device) {
  RECORD_FUNCTION("dsrsq::noise", c10::ArrayRef<const c10::IValue>{});
  auto values = at::empty({int64_t(sample_ids.size()), size}, at::kDouble);
  auto* out = values.data_ptr<double>();
  for (size_t row = 0; row < sample_ids.size(); ++row) {
    RandomStream stream(seed, purpose, step, uint64_t(sample_ids[row]));
    for (int64_t i = 0; i < size; ++i) out[row * size + i] = draw(stream, kind, uint64_t(i));
  }
  return values.to(device);
}

at::Tensor initial_normal(const std::string& name, at::IntArrayRef shape, double deviation,
                          uint64_t seed) {
  auto values = at::empty(shape, at::kFloat);
  auto* out = values.data_ptr<float>();
  RandomStream stream(seed, Purpose::kInitialise, 0, stable_hash(name));
  for (int64_t i = 0; i < values.numel(); ++i)
    out[i] = float(deviation * stream.normal(uint64_t(i)));
  return values;
}

}  // namespace dsrsq::ops
