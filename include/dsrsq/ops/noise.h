// Tensors of counter-based noise (D21): element [b, i] is a function of (seed, purpose, step,
// sample_ids[b], i) only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dsrsq/core/random.h"

namespace dsrsq::ops {

enum class Noise { kUniform, kNormal, kGumbel };

// -> [B, size] of dtype double, on `device`. sample_ids: one a row.
at::Tensor noise(Noise kind, uint64_t seed, Purpose purpose, uint64_t step,
                 const std::vector<int64_t>& sample_ids, int64_t size, at::Device device);

// N(0, deviation) in the shape of `like`, from (seed, kInitialise, hash of name). For weights: the
// same name gets the same weights in every ablation (D23).
at::Tensor initial_normal(const std::string& name, at::IntArrayRef shape, double deviation,
                          uint64_t seed);

}  // namespace dsrsq::ops
