#include <cuda_bf16.h>

#include "kernels/retrieval/gather_tokens.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A warp a row, in the widest words that its bytes and addresses allow.
template <typename Word>
__device__ __forceinline__ void copy_row(const char* source, char* target, int64_t bytes) {
  const int64_t words = bytes / int64_t{sizeof(Word)};
  for (int64_t i = threadIdx.x % 32; i < words; i += 32) {
    reinterpret_cast<Word*>(target)[i] =
        source == nullptr ? Word{} : reinterpret_cast<const Word*>(source)[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(GatherTokensSizes s, int64_t row_bytes, int word, const char* rows,
                  const int64_t* index, char* out) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (slot >= s.batch * s.slots) return;
  const int64_t row = index[slot];
  if (row < -1 || row >= s.tokens) __trap();
  const char* source = row < 0 ? nullptr : rows + (slot / s.slots * s.tokens + row) * row_bytes;
  char* target = out + slot * row_bytes;
  switch (word) {
    case 16:
      return copy_row<uint4>(source, target, row_bytes);
    case 4:
      return copy_row<uint32_t>(source, target, row_bytes);
    default:
      return copy_row<uint16_t>(source, target, row_bytes);
  }
}

__device__ __forceinline__ float load(const float* x) { return *x; }
__device__ __forceinline__ float load(const __nv_bfloat16* x) { return __bfloat162float(*x); }
__device__ __forceinline__ void store(float* x, float value) { *x = value; }
__device__ __forceinline__ void store(__nv_bfloat16* x, float value) {
  *x = __float2bfloat16(value);
}

// A warp an entry of the sorted index: the first of its row sums for all.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    gather_backward_kernel(GatherTokensSizes s, const Element* d_out, const int64_t* sorted,
                           const int64_t* slot, Element* d_rows) {
  const int64_t entry = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (entry >= s.batch * s.slots) return;
  const int64_t b = entry / s.slots, first = b * s.slots, end = first + s.slots;
  const int64_t row = sorted[entry];
  if (row < 0 || (entry > first && sorted[entry - 1] == row)) return;
  Element* target = d_rows + (b * s.tokens + row) * s.width;
  for (int64_t column = threadIdx.x % 32; column < s.width; column += 32) {
    float sum = 0.f;
    for (int64_t i = entry; i < end && sorted[i] == row; ++i) {
      sum += load(d_out + (first + slot[i]) * s.width + column);
    }
    store(target + column, sum);
  }
}

unsigned blocks_of(const GatherTokensSizes& s) {
  return static_cast<unsigned>((s.batch * s.slots + kWarps - 1) / kWarps);
}

}  // namespace

cudaError_t launch_gather_tokens(const GatherTokensSizes& s, int64_t element_bytes,
                                 const void* rows, const int64_t* index, void* out,
                                 cudaStream_t stream) {
  const int64_t bytes = s.width * element_bytes;
  const auto fits = [&](int64_t word) {
    return bytes % word == 0 && reinterpret_cast<uintptr_t>(rows) % word == 0 &&
           reinterpret_cast<uintptr_t>(out) % word == 0;
  };
  if (!fits(2)) return cudaErrorInvalidValue;
  const int word = fits(16) ? 16 : fits(4) ? 4 : 2;
  gather_kernel<<<blocks_of(s), kThreads, 0, stream>>>(
      s, bytes, word, static_cast<const char*>(rows), index, static_cast<char*>(out));
  return cudaGetLastError();
}

cudaError_t launch_gather_tokens_backward(const GatherTokensSizes& s, ElementType type,
                                          const void* d_out, const int64_t* sorted,
                                          const int64_t* slot, void* d_rows, cudaStream_t stream) {
  if (type == ElementType::kFloat32) {
    gather_backward_kernel<<<blocks_of(s), kThreads, 0, stream>>>(
        s, static_cast<const float*>(d_out), sorted, slot, static_cast<float*>(d_rows));
  } else {
    gather_backward_kernel<<<blocks_of(s), kThreads, 0, stream>>>(
        s, static_cast<const __nv_bfloat16*>(d_out), sorted, slot,
        static_cast<__nv_bfloat16*>(d_rows));
  }
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
