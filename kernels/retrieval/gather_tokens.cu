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

// Of a slot: the next one that takes the same row, plus 1 (0: none), and a bit that says that an
// earlier one takes it, too, or that it takes none.
constexpr unsigned kNotFirst = 1u << 31;
constexpr int kTile = 4 * kThreads;  // slots that a block compares with at a time

// A warp a slot, a block successive ones of a sequence.
__global__ void __launch_bounds__(kThreads)
    chain_kernel(GatherTokensSizes s, int64_t blocks, const int64_t* index, unsigned* chain) {
  __shared__ int64_t tile[kTile];
  const int64_t b = blockIdx.x / blocks;
  const int own = static_cast<int>(blockIdx.x % blocks) * kWarps + threadIdx.x / 32;
  const int slots = static_cast<int>(s.slots);
  index += b * slots;
  const int64_t row = own < slots ? index[own] : -1;
  bool earlier = row < 0;
  int later = slots;
  for (int first = 0; first < slots; first += kTile) {
    const int count = min(kTile, slots - first);
    __syncthreads();  // the tile before has been read
    for (int i = threadIdx.x; i < count; i += kThreads) tile[i] = index[first + i];
    __syncthreads();
    for (int i = threadIdx.x % 32; i < count; i += 32) {
      if (tile[i] != row) continue;
      if (first + i < own) earlier = true;
      if (first + i > own) later = min(later, first + i);
    }
  }
  later = __reduce_min_sync(0xffffffffu, later);
  const bool not_first = __any_sync(0xffffffffu, earlier);
  if (own >= slots || threadIdx.x % 32 != 0) return;
  chain[b * slots + own] =
      (later < slots ? static_cast<unsigned>(later) + 1 : 0) | (not_first ? kNotFirst : 0);
}

// A warp a slot and kColumns columns: the first of its row sums for all.
constexpr int kColumns = 128;
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    gather_backward_kernel(GatherTokensSizes s, const Element* d_out, const int64_t* index,
                           const unsigned* chain, Element* d_rows) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (slot >= s.batch * s.slots || (chain[slot] & kNotFirst) != 0) return;
  const int64_t b = slot / s.slots, first = b * s.slots;
  const int64_t column = int64_t{blockIdx.y} * kColumns + threadIdx.x % 32;
  float sum[kColumns / 32] = {};
  for (int64_t from = slot;;) {
    const unsigned next = chain[from] & ~kNotFirst;
#pragma unroll
    for (int i = 0; i < kColumns / 32; ++i) {
      if (column + 32 * i < s.width) sum[i] += load(d_out + from * s.width + column + 32 * i);
    }
    if (next == 0) break;
    from = first + next - 1;
  }
#pragma unroll
  for (int i = 0; i < kColumns / 32; ++i) {
    if (column + 32 * i >= s.width) continue;
    store(d_rows + (b * s.tokens + index[slot]) * s.width + column + 32 * i, sum[i]);
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
                                          const void* d_out, const int64_t* index, unsigned* chain,
                                          void* d_rows, cudaStream_t stream) {
  if (s.slots >= int64_t{1} << 31 || s.width > int64_t{65535} * kColumns)
    return cudaErrorInvalidValue;
  const int64_t blocks = (s.slots + kWarps - 1) / kWarps;
  chain_kernel<<<static_cast<unsigned>(s.batch * blocks), kThreads, 0, stream>>>(s, blocks, index,
                                                                                 chain);
  const dim3 grid(blocks_of(s), static_cast<unsigned>((s.width + kColumns - 1) / kColumns));
  if (type == ElementType::kFloat32) {
    gather_backward_kernel<<<grid, kThreads, 0, stream>>>(
        s, static_cast<const float*>(d_out), index, chain, static_cast<float*>(d_rows));
  } else {
    gather_backward_kernel<<<grid, kThreads, 0, stream>>>(
        s, static_cast<const __nv_bfloat16*>(d_out), index, chain,
        static_cast<__nv_bfloat16*>(d_rows));
  }
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
