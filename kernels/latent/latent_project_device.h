// The kernel of latent_project_*.cu: rows are streamed once against all columns. 64 rows a
// warpgroup, 128 columns a block (keys and values of 64, where they come from different rows);
// operands three stages ahead, products by wgmma.
#pragma once

#include "kernels/attention/hopper.h"
#include "kernels/latent/latent_project.h"

namespace dsrsq::kernels {

struct LatentProjectArguments {
  LatentProjectSizes s;
  LatentProjectInputs in;
  void* keys;
  void* values;
  ElementType type;
};

// By the weight's parts. `warpgroups`: 2 or 4, of 64 rows.
cudaError_t launch_latent_project_1(const LatentProjectArguments& a, int warpgroups,
                                    cudaStream_t stream);
cudaError_t launch_latent_project_2(const LatentProjectArguments& a, int warpgroups,
                                    cudaStream_t stream);

namespace latent_project {

constexpr int kMostThreads = 512;
constexpr int kStages = 3;
constexpr int kBlockColumns = 128;
constexpr int kWeightBytes = kBlockColumns * kTileRowBytes;
constexpr int kLoads = 4;  // chunks of a stage's rows a thread fetches: 64 rows of 8 by 128 threads

__host__ __device__ inline int stage_bytes(int parts, int sources, int rows) {
  return sources * rows * kTileRowBytes + parts * kWeightBytes;
}

template <int kParts>
class Block {
 public:
  __device__ Block(const LatentProjectArguments& a, uint32_t stages)
      : a_(a),
        s_(a.s),
        stages_(stages),
        sources_(a.in.values.x != nullptr ? 2 : 1),
        rows_(static_cast<int>(blockDim.x) / 2),
        bytes_(stage_bytes(kParts, sources_, rows_)),
        first_row_(int64_t{blockIdx.x} * rows_),
        chunk_(threadIdx.x % 8) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t row = first_row_ + loaded_row(i);
      const bool exists = row < s_.batch * s_.tokens;
      source_[0][i] = exists ? row_of(a.in.keys, row) : nullptr;
      source_[1][i] = exists && sources_ == 2 ? row_of(a.in.values, row) : nullptr;
    }
  }

  __device__ void run() {
    const int steps = static_cast<int>(s_.inner / kTileColumns);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (stage < steps) load(stage, stage);
      copy_commit();
    }
    float sums[2][32];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[0][i] = sums[1][i] = 0.f;
    for (int step = 0; step < steps; ++step) {
      copy_wait<kStages - 2>();
      async_proxy_fence();
      __syncthreads();  // the stage is here, and the one before has been multiplied
      if (step + kStages - 1 < steps) load(step + kStages - 1, (step + kStages - 1) % kStages);
      copy_commit();
      add_products(step % kStages, sums);
    }
    copy_wait<0>();
    write(sums);
  }

 private:
  __device__ int loaded_row(int i) const {
    return static_cast<int>(threadIdx.x) / 8 + i * static_cast<int>(blockDim.x) / 8;
  }
  __device__ const __nv_bfloat16* row_of(const LatentProjectSource& source, int64_t row) const {
    return static_cast<const __nv_bfloat16*>(source.x) + row / s_.tokens * source.batch_stride +
           row % s_.tokens * source.token_stride;
  }
  // Row of the weight that makes a column of the block, -1: none.
  __device__ int64_t weight_row(int column) const {
    const int64_t group = blockIdx.y;
    if (sources_ == 1) {
      const int64_t row = group * kBlockColumns + column;
      return row < 2 * s_.width ? row : -1;
    }
    const int64_t own = group * kTileRows + column % kTileRows;
    return own >= s_.width ? -1 : own + (column < kTileRows ? 0 : s_.width);
  }

  __device__ uint32_t rows_at(int stage, int source) const {
    return stages_ + stage * bytes_ + source * rows_ * kTileRowBytes;
  }
  __device__ uint32_t weight_at(int stage) const { return rows_at(stage, sources_); }

  __device__ void load(int step, int stage) const {
    for (int source = 0; source < sources_; ++source) {
      const LatentProjectSource& in = source == 0 ? a_.in.keys : a_.in.values;
      const int blocks = static_cast<int>(in.head_width) / kTileColumns;
      const int64_t column =
          step / blocks * in.head_stride + step % blocks * kTileColumns + chunk_ * 8;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const __nv_bfloat16* row = source == 0 ? source_[0][i] : source_[1][i];
        copy_chunk(rows_at(stage, source) + swizzled(loaded_row(i), chunk_),
                   row != nullptr ? row + column : in.x, row != nullptr);
      }
    }
    const auto* weight = static_cast<const __nv_bfloat16*>(a_.in.weight);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      for (int column = threadIdx.x / 8; column < kBlockColumns; column += blockDim.x / 8) {
        const int64_t row = weight_row(column);
        const int64_t source =
            row < 0 ? 0 : (part * 2 * s_.width + row) * s_.inner + step * kTileColumns + chunk_ * 8;
        copy_chunk(weight_at(stage) + part * kWeightBytes + swizzled(column, chunk_),
                   weight + source, row >= 0);
      }
    }
  }

  __device__ void add_products(int stage, float (&sums)[2][32]) const {
    const int warpgroup = threadIdx.x / 128;
    const uint64_t keys = tile_descriptor(rows_at(stage, 0) + warpgroup * kTileBytes);
    const uint64_t values = tile_descriptor(rows_at(stage, sources_ - 1) + warpgroup * kTileBytes);
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint64_t weight = tile_descriptor(weight_at(stage) + part * kWeightBytes);
      const uint64_t second = tile_descriptor(weight_at(stage) + part * kWeightBytes + kTileBytes);
#pragma unroll
      for (int i = 0; i < kTileColumns / 16; ++i) {
        wgmma<false>(sums[0], keys + i * kColumnStep, weight + i * kColumnStep, true);
        wgmma<false>(sums[1], values + i * kColumnStep, second + i * kColumnStep, true);
      }
    }
    wgmma_commit();
    wgmma_wait<0>(sums[0]);
    wgmma_wait<0>(sums[1]);
  }

  __device__ void write(const float (&sums)[2][32]) const {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row_ + warp * 16 + g + 8 * half;
      if (row >= s_.batch * s_.tokens) continue;
      const int64_t slot = a_.in.slots != nullptr ? a_.in.slots[row] : row % s_.tokens;
      if (slot < 0 || slot >= s_.slots) continue;
      const int64_t target = (row / s_.tokens * s_.slots + slot) * s_.width;
#pragma unroll
      for (int block = 0; block < 2; ++block) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          // Widths are even: a pair of columns is of keys or of values.
          const int64_t from = weight_row(block * kTileRows + 8 * i + 2 * t);
          if (from < 0) continue;
          float x = sums[block][4 * i + 2 * half], y = sums[block][4 * i + 2 * half + 1];
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
  }

  const LatentProjectArguments& a_;
  const LatentProjectSizes& s_;
  uint32_t stages_;
  int sources_, rows_, bytes_;
  int64_t first_row_;
  int chunk_;
  const __nv_bfloat16* source_[2][kLoads];
};

template <int kParts>
__global__ void __launch_bounds__(kMostThreads)
    latent_project_kernel(const __grid_constant__ LatentProjectArguments a) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Block<kParts>(a, (shared_address(raw) + 1023) / 1024 * 1024).run();
}

template <int kParts>
cudaError_t launch(const LatentProjectArguments& a, int warpgroups, cudaStream_t stream) {
  const int rows = 64 * warpgroups, sources = a.in.values.x != nullptr ? 2 : 1;
  const int bytes = kStages * stage_bytes(kParts, sources, rows) + 1024;
  const cudaError_t status = cudaFuncSetAttribute(
      latent_project_kernel<kParts>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const int64_t columns = sources == 1 ? 2 * a.s.width : a.s.width;
  const int64_t of_block = sources == 1 ? kBlockColumns : kTileRows;
  const dim3 grid(static_cast<unsigned>((a.s.batch * a.s.tokens + rows - 1) / rows),
                  static_cast<unsigned>((columns + of_block - 1) / of_block));
  latent_project_kernel<kParts><<<grid, 128 * warpgroups, bytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace latent_project
}  // namespace dsrsq::kernels
