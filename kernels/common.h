// What every launcher shares. No torch, nothing of dsrsq: kernels/ compiles alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dsrsq::kernels {

// The element types that a kernel reads as they are; the caller converts anything else to one of
// them.
enum class ElementType { kFloat32, kBFloat16 };

}  // namespace dsrsq::kernels
