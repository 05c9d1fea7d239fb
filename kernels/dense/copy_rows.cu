#include "kernels/dense/copy_rows.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 8;  // of a thread: 16 bytes

__global__ void copy_rows_kernel(CopyRowsSizes s, const uint16_t* x, uint16_t* out, int64_t total) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t parts = s.width / kElements, part = index % parts, row = index / parts;
  int64_t b, h, t;
  if (s.by_token) {
    h = row % s.heads;
    t = row / s.heads % s.tokens;
    b = row / s.heads / s.tokens;
  } else {
    t = row % s.tokens;
    h = row / s.tokens % s.heads;
    b = row / s.tokens / s.heads;
  }
  const int64_t from = b * s.in_strides[0] + h * s.in_strides[1] + t * s.in_strides[2];
  const int64_t to = b * s.out_strides[0] + h * s.out_strides[1] + t * s.out_strides[2];
  *reinterpret_cast<uint4*>(out + to + part * kElements) =
      *reinterpret_cast<const uint4*>(x + from + part * kElements);
}

}  // namespace

cudaError_t launch_copy_rows(const CopyRowsSizes& s, const void* x, void* out,
                             cudaStream_t stream) {
  const int64_t total = s.batch * s.heads * s.tokens * (s.width / kElements);
  if (total == 0) return cudaSuccess;
  const auto blocks = unsigned((total + kThreads - 1) / kThreads);
  copy_rows_kernel<<<blocks, kThreads, 0, stream>>>(s, static_cast<const uint16_t*>(x),
                                                    static_cast<uint16_t*>(out), total);
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
