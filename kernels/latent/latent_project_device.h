// The kernel of latent_project_*.cu: rows are streamed once against all columns. A block has 128
// rows and 128 columns (keys and values of 64, where they come from different rows), a warp 32 by
// 64; operands come two stages ahead. mma.sync: wgmma gained 6 % from hidden states and lost 15 %
// by head (kernels/README.md).
#pragma once

#include "kernels/attention/hopper.h"
#include "kernels/latent/latent_project.h"
#include "kernels/latent/mma.h"

namespace dsrsq::kernels {

struct LatentProjectArguments {
  LatentProjectSizes s;
  LatentProjectInputs in;
  void* keys;
  void* values;
  ElementType type;
};

// By the weight's parts.
cudaError_t launch_latent_project_1(const LatentProjectArguments& a, cudaStream_t stream);
cudaError_t launch_latent_project_2(const LatentProjectArguments& a, cudaStream_t stream);

namespace latent_project {

constexpr int kThreads = 256;
constexpr int kStages = 3;
constexpr int kRows = 128, kColumns = 128;
constexpr int kBytes = kRows * kTileRowBytes;  // of a stage's rows, or weight
static_assert(kRows == kColumns);
constexpr int kLoads = kRows * 8 / kThreads;  // chunks of a tile that a thread fetches
constexpr int kWarpRows = 32, kWarpColumns = 64;
constexpr int kTilesDown = kWarpRows / 16, kTilesAcross = kWarpColumns / 8;

template <int kParts>
class Block {
 public:
  __device__ Block(const LatentProjectArguments& a, uint32_t stages)
      : a_(a),
        s_(a.s),
        stages_(stages),
        sources_(a.in.values.x != nullptr ? 2 : 1),
        first_row_(int64_t{blockIdx.x} * kRows),
        chunk_(threadIdx.x % 8),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t row = first_row_ + loaded_row(i);
      const bool exists = row < s_.batch * s_.tokens;
      source_[0][i] = exists ? row_of(a.in.keys, row) : nullptr;
      source_[1][i] = exists && sources_ == 2 ? row_of(a.in.values, row) : nullptr;
      const int64_t from = weight_row(loaded_row(i));
      weight_[i] =
          from < 0 ? nullptr : static_cast<const __nv_bfloat16*>(a.in.weight) + from * s_.inner;
    }
  }

  __device__ void run() {
    const int steps = static_cast<int>(s_.inner / kTileColumns);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (stage < steps) load(stage, stage);
      copy_commit();
    }
    float sums[kTilesDown][kTilesAcross][4] = {};
    int stage = 0;
    for (int step = 0; step < steps; ++step) {
      copy_wait<kStages - 2>();
      __syncthreads();  // the stage is here, and the one before has been multiplied
      const int next = stage == 0 ? kStages - 1 : stage - 1;
      if (step + kStages - 1 < steps) load(step + kStages - 1, next);
      copy_commit();
      add_products(stage, sums);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
    copy_wait<0>();
    write(sums);
  }

 private:
  __device__ static int loaded_row(int i) { return threadIdx.x / 8 + i * (kThreads / 8); }
  __device__ const __nv_bfloat16* row_of(const LatentProjectSource& source, int64_t row) const {
    return static_cast<const __nv_bfloat16*>(source.x) + row / s_.tokens * source.batch_stride +
           row % s_.tokens * source.token_stride + chunk_ * 8;
  }
  // Row of the weight that makes a column of the block, -1: none.
  __device__ int64_t weight_row(int column) const {
    const int64_t group = blockIdx.y;
    if (sources_ == 1) {
      const int64_t row = group * kColumns + column;
      return row < 2 * s_.width ? row : -1;
    }
    const int64_t own = group * kWarpColumns + column % kWarpColumns;
    return own >= s_.width ? -1 : own + (column < kWarpColumns ? 0 : s_.width);
  }

  __device__ uint32_t rows_at(int stage, int source) const {
    return stages_ + (stage * (sources_ + kParts) + source) * kBytes;
  }
  __device__ uint32_t weight_at(int stage, int part) const {
    return rows_at(stage, sources_ + part);
  }

  __device__ void load(int step, int stage) const {
    for (int source = 0; source < sources_; ++source) {
      const LatentProjectSource& in = source == 0 ? a_.in.keys : a_.in.values;
      const int blocks = static_cast<int>(in.head_width) / kTileColumns;
      const int64_t column = blocks == 1
                                 ? step * in.head_stride
                                 : step / blocks * in.head_stride + step % blocks * kTileColumns;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const __nv_bfloat16* row = source == 0 ? source_[0][i] : source_[1][i];
        copy_chunk(rows_at(stage, source) + swizzled(loaded_row(i), chunk_),
                   row != nullptr ? row + column : in.x, row != nullptr);
      }
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int64_t column = part * 2 * s_.width * s_.inner + step * kTileColumns + chunk_ * 8;
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        copy_chunk(weight_at(stage, part) + swizzled(loaded_row(i), chunk_),
                   weight_[i] != nullptr ? weight_[i] + column : a_.in.weight,
                   weight_[i] != nullptr);
    }
  }

  __device__ int first_warp_row() const { return warp_ % 4 * kWarpRows; }
  __device__ int first_warp_column() const { return warp_ / 4 * kWarpColumns; }

  __device__ void add_products(int stage, float (&sums)[kTilesDown][kTilesAcross][4]) const {
    const int matrix = lane_ / 8, turned = lane_ % 8;
    const uint32_t rows = rows_at(stage, warp_ / 4 == 0 ? 0 : sources_ - 1) +
                          (first_warp_row() + (matrix & 1) * 8 + turned) * kTileRowBytes;
    const uint32_t columns = (first_warp_column() + (matrix >> 1) * 8 + turned) * kTileRowBytes;
#pragma unroll
    for (int step = 0; step < kTileColumns / 16; ++step) {
      uint32_t a[kTilesDown][4];
#pragma unroll
      for (int i = 0; i < kTilesDown; ++i)
        load_matrices(a[i],
                      rows + i * 16 * kTileRowBytes + (((2 * step + (matrix >> 1)) ^ turned) << 4));
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int pair = 0; pair < kTilesAcross / 2; ++pair) {
          uint32_t b[4];
          load_matrices(b, weight_at(stage, part) + columns + pair * 16 * kTileRowBytes +
                               (((2 * step + (matrix & 1)) ^ turned) << 4));
#pragma unroll
          for (int i = 0; i < kTilesDown; ++i) {
            multiply(sums[i][2 * pair], a[i], b[0], b[1]);
            multiply(sums[i][2 * pair + 1], a[i], b[2], b[3]);
          }
        }
    }
  }

  __device__ void write(const float (&sums)[kTilesDown][kTilesAcross][4]) const {
    const int g = lane_ / 4, t = lane_ % 4;
#pragma unroll
    for (int i = 0; i < kTilesDown; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = first_row_ + first_warp_row() + i * 16 + g + 8 * half;
        if (row >= s_.batch * s_.tokens) continue;
        const int64_t b = row / s_.tokens;
        const int64_t slot = a_.in.slots != nullptr ? a_.in.slots[row] : row - b * s_.tokens;
        if (slot < 0 || slot >= s_.slots) continue;
        const int64_t target = (b * s_.slots + slot) * s_.width;
#pragma unroll
        for (int j = 0; j < kTilesAcross; ++j) {
          // Widths are even: a pair of columns is of keys or of values.
          const int64_t from = weight_row(first_warp_column() + 8 * j + 2 * t);
          if (from < 0) continue;
          float x = sums[i][j][2 * half], y = sums[i][j][2 * half + 1];
          if (a_.in.bias != nullptr) x += a_.in.bias[from], y += a_.in.bias[from + 1];
          void* to = from < s_.width ? a_.keys : a_.values;
          const int64_t at = target + (from < s_.width ? from : from - s_.width);
          if (a_.type == ElementType::kBFloat16) {
            *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(to) + at) = pack(x, y);
          } else {
            *reinterpret_cast<float2*>(static_cast<float*>(to) + at) = make_float2(x, y);
          }
        }
      }
  }

  const LatentProjectArguments& a_;
  const LatentProjectSizes& s_;
  uint32_t stages_;
  int sources_;
  int64_t first_row_;
  int chunk_, warp_, lane_;
  const __nv_bfloat16* source_[2][kLoads];  // this thread's chunk of each row that it fetches
  const __nv_bfloat16* weight_[kLoads];
};

template <int kParts>
__global__ void __launch_bounds__(kThreads, kParts == 1 ? 2 : 1)
    latent_project_kernel(const __grid_constant__ LatentProjectArguments a) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Block<kParts>(a, (shared_address(raw) + 1023) / 1024 * 1024).run();
}

template <int kParts>
cudaError_t launch(const LatentProjectArguments& a, cudaStream_t stream) {
  const int sources = a.in.values.x != nullptr ? 2 : 1;
  const int bytes = kStages * (sources + kParts) * kBytes + 1024;
  const cudaError_t status = cudaFuncSetAttribute(
      latent_project_kernel<kParts>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const int64_t columns = sources == 1 ? 2 * a.s.width : a.s.width;
  const int64_t of_block = sources == 1 ? kColumns : kWarpColumns;
  const dim3 grid(static_cast<unsigned>((a.s.batch * a.s.tokens + kRows - 1) / kRows),
                  static_cast<unsigned>((columns + of_block - 1) / of_block));
  latent_project_kernel<kParts><<<grid, kThreads, bytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace latent_project
}  // namespace dsrsq::kernels
