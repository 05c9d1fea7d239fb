// What the implementations of latent_project share.
#pragma once

#include "dsrsq/ops/latent_project.h"

namespace dsrsq::ops {

// Sizes of the arguments, in either form.
struct LatentProjectShape {
  int64_t batch, tokens, inner, width;  // width: c
};
// Throws c10::Error naming the argument, what was expected and what was found.
LatentProjectShape check_latent_project(const LatentProjectInputs& in);

// Writes the latents of token t to slot slots[b, t] of keys and values [B, L, c]; slots undefined:
// to slot t.
using ProjectInto = void (*)(const LatentProjectInputs& in, const at::Tensor& slots,
                             at::Tensor& keys, at::Tensor& values);
// The device's; each device's file fills in its own when the library is loaded.
ProjectInto& latent_project_backend(at::DeviceType device);

// By plain tensor operations, in fp32 or double, on any device.
void latent_project_plain(const LatentProjectInputs& in, const at::Tensor& slots, at::Tensor& keys,
                          at::Tensor& values);

}  // namespace dsrsq::ops
