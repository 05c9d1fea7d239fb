#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/cluster_route.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 256;  // two warpgroups, each with its own 64 vectors
constexpr int kMaxSharedBytes = 220 * 1024;
// Assignment takes the centroids in parts of which a multiprocessor holds two at a time.
constexpr int64_t kNearestPartBytes = 104 * 1024;
constexpr unsigned kIndexMask = 1023;

// Centroids as operand tiles: [heads][parts][d / 64][tiles of 64][64 rows][64], columns transposed
// as cluster order transposes them; zeros beyond m. Part 1 is what part 0's rounding lost.
__global__ void prepare_kernel(int64_t heads, int clusters, int width, int parts,
                               const float* centroids, __nv_bfloat16* tiles) {
  const int rows = (clusters + 63) / 64 * 64, planes = width / 64;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= heads * rows * width) return;
  const int column = static_cast<int>(i % width);
  const int row = static_cast<int>(i / width % rows);
  const int64_t head = i / width / rows;
  const float x = row < clusters ? centroids[(head * clusters + row) * width + column] : 0.f;
  const __nv_bfloat16 high = __float2bfloat16_rn(x);
  const int plane = column / 64, half = column % 64 / 32, pair = column % 32 / 2;
  // Pair 4 t + i of 32 columns is kept as pair 4 i + t.
  const int chunk = half * 4 + pair % 4, place = pair / 4 * 2 + column % 2;
  const int64_t tile = (head * parts * planes + plane) * rows * 64;
  const int64_t target = tile + row * 64 + ((chunk ^ (row & 7)) * 8) + place;
  tiles[target] = high;
  if (parts == 2) {
    tiles[target + int64_t{planes} * rows * 64] = __float2bfloat16_rn(x - __bfloat162float(high));
  }
}

__device__ __forceinline__ void order(float& high, float& low) {
  const float a = fmaxf(high, low), b = fminf(high, low);
  high = a, low = b;
}

// Descending.
__device__ __forceinline__ void sort8(float (&x)[8]) {
  order(x[0], x[2]), order(x[1], x[3]), order(x[4], x[6]), order(x[5], x[7]);
  order(x[0], x[4]), order(x[1], x[5]), order(x[2], x[6]), order(x[3], x[7]);
  order(x[0], x[1]), order(x[2], x[3]), order(x[4], x[5]), order(x[6], x[7]);
  order(x[2], x[4]), order(x[3], x[5]);
  order(x[1], x[4]), order(x[3], x[6]);
  order(x[1], x[2]), order(x[3], x[4]), order(x[5], x[6]);
}

// The best eight of two descending lists, descending.
__device__ __forceinline__ void merge8(float (&best)[8], const float (&other)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) best[i] = fmaxf(best[i], other[7 - i]);
#pragma unroll
  for (int step = 4; step > 0; step /= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if ((i & step) == 0) order(best[i], best[i + step]);
    }
  }
}

struct RouteArguments {
  RouteSizes s;
  const __nv_bfloat16* vectors;
  const __nv_bfloat16* tiles;
  const float* bias;
  const bool* valid;
  int* routes;
  NearestOutputs nearest;
  int first_tile;  // of 64 clusters, of this launch
  int num_tiles;
};

// The eight best clusters of two rows so far.
struct Best {
  float top[2][8];
  __device__ void start() {
#pragma unroll
    for (int i = 0; i < 8; ++i) top[0][i] = top[1][i] = -CUDART_INF_F;
  }
  // A score carries its cluster in the low bits of its mantissa. `left`: clusters from this tile
  // on.
  __device__ void add(const float (&score)[32], int first, int left) {
    const int column = 2 * (threadIdx.x & 3);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int batch = 0; batch < 2; ++batch) {
        float x[8];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int col = 8 * (4 * batch + i) + column + e;
            const unsigned bits = __float_as_uint(score[4 * (4 * batch + i) + 2 * half + e]);
            x[2 * i + e] =
                __uint_as_float((bits & ~kIndexMask) | static_cast<unsigned>(first + col));
            if (left < 64 && col >= left) x[2 * i + e] = -CUDART_INF_F;
          }
        }
        sort8(x);
        merge8(top[half], x);
      }
    }
  }
  __device__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int lanes = 1; lanes <= 2; lanes *= 2) {
        float other[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) other[i] = __shfl_xor_sync(0xffffffffu, top[half][i], lanes);
        merge8(top[half], other);
      }
    }
  }
};

// The nearest cluster of two rows so far, by score = k . c / ||k|| + bias.
struct Nearest {
  float best[2];
  int index[2];
  __device__ void start() {
    best[0] = best[1] = -CUDART_INF_F;
    index[0] = index[1] = 0;
  }
  // What an earlier launch found for a row among the clusters before.
  __device__ void resume(int half, float score, int cluster) {
    best[half] = score;
    index[half] = cluster;
  }
  __device__ void add(const float (&score)[32], int first, int left, const float* bias,
                      const float (&inverse_norm)[2]) {
    const int column = 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int col = 8 * i + column + e;
        if (col >= left) continue;
        const float b = bias[col];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float x = fmaf(score[4 * i + 2 * half + e], inverse_norm[half], b);
          if (x > best[half]) best[half] = x, index[half] = first + col;
        }
      }
    }
  }
  __device__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int lanes = 1; lanes <= 2; lanes *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, best[half], lanes);
        const int at = __shfl_xor_sync(0xffffffffu, index[half], lanes);
        if (other > best[half] || (other == best[half] && at < index[half])) {
          best[half] = other, index[half] = at;
        }
      }
    }
  }
};

template <int kWidth, bool kRoute>
__global__ void __launch_bounds__(kThreads, 2)
    route_kernel(const __grid_constant__ RouteArguments a) {
  constexpr int kPlanes = kWidth / 64, kParts = kRoute ? 1 : 2;
  extern __shared__ char shared_raw[];
  __shared__ uint64_t full;
  const RouteSizes& s = a.s;
  const int all_tiles = static_cast<int>(s.clusters + 63) / 64, num_tiles = a.num_tiles;
  const int first_cluster = a.first_tile * 64;
  const int clusters = min(static_cast<int>(s.clusters) - first_cluster, num_tiles * 64);
  const int64_t head = blockIdx.y;
  const int64_t b = head / s.heads, kv = (head - b * s.heads) / (s.heads / s.kv_heads);
  const int64_t group = s.centroids_by_batch ? b * s.kv_heads + kv : kv;
  char* tiles = shared_raw + ((1024 - (shared_address(shared_raw) & 1023)) & 1023);
  const int plane_bytes = num_tiles * kTileBytes;
  float* bias = reinterpret_cast<float*>(tiles + kParts * kPlanes * plane_bytes);
  if (threadIdx.x == 0) {
    barrier_init(&full, 1);
    barrier_init_fence();
    barrier_expect(&full, kParts * kPlanes * plane_bytes);
#pragma unroll
    for (int i = 0; i < kParts * kPlanes; ++i) {
      const int64_t source = (group * kParts * kPlanes + i) * all_tiles + a.first_tile;
      bulk_load(tiles + i * plane_bytes,
                reinterpret_cast<const char*>(a.tiles) + source * kTileBytes, plane_bytes, &full);
    }
  }
  if (!kRoute) {
    for (int c = threadIdx.x; c < clusters; c += kThreads) {
      bias[c] = a.bias[group * s.clusters + first_cluster + c];
    }
  }
  __syncthreads();
  barrier_wait(&full, 0);

  const int lane = threadIdx.x % 32, t = lane & 3;
  const int g = threadIdx.x % 128 / 32 * 16 + lane / 4;
  const uint32_t base = shared_address(tiles);
  const uint32_t zero = unknown_zero();
  const int last = static_cast<int>(s.tokens) - 1;
  for (int64_t first = (int64_t{blockIdx.x} * 2 + threadIdx.x / 128) * 64; first < s.tokens;
       first += int64_t{gridDim.x} * 128) {
    const int row0 = min(static_cast<int>(first) + g, last);
    const int row1 = min(static_cast<int>(first) + g + 8, last);
    uint32_t x[kPlanes][16];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      load_operand(x[plane], a.vectors + (head * s.tokens + row0) * kWidth + 64 * plane,
                   a.vectors + (head * s.tokens + row1) * kWidth + 64 * plane);
    }
    float norm[2] = {0.f, 0.f};
    if (!kRoute) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          const float low = low_half(x[plane][i]), high = high_half(x[plane][i]);
          norm[i & 1] += low * low + high * high;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float square = quad_sum(norm[half]);
        norm[half] = square > 0.f ? 1.f / sqrtf(square) : 0.f;
      }
    }
    Best best;
    Nearest nearest;
    if (kRoute) best.start();
    if (!kRoute) {
      nearest.start();
      if (first_cluster > 0) {
        const int64_t place = (kv * s.batch + b) * s.tokens;
        nearest.resume(0, a.nearest.score[place + row0], a.nearest.compact[place + row0]);
        nearest.resume(1, a.nearest.score[place + row1], a.nearest.compact[place + row1]);
      }
    }
    for (int tile = 0; tile < num_tiles; ++tile) {
      float score[32];
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) hold(x[plane], zero);
      wgmma_fence();
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          const uint64_t c =
              tile_descriptor(base + (part * kPlanes + plane) * plane_bytes + tile * kTileBytes);
#pragma unroll
          for (int step = 0; step < 4; ++step) {
            wgmma<false>(score, x[plane] + 4 * step, c + step * kColumnStep,
                         part + plane + step > 0);
          }
        }
      }
      wgmma_commit();
      wgmma_wait<0>();
      if (kRoute) best.add(score, tile * 64, clusters - tile * 64);
      if (!kRoute) {
        nearest.add(score, first_cluster + tile * 64, clusters - tile * 64, bias + tile * 64, norm);
      }
    }
    if (kRoute) best.finish();
    if (!kRoute) nearest.finish();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + g + 8 * half;
      if (row > last) continue;
      if (kRoute) {
        int* out = a.routes + (head * s.tokens + row) * s.slots;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (i / 2 == t && i < s.slots) {
            out[i] = static_cast<int>(__float_as_uint(best.top[half][i]) & kIndexMask);
          }
        }
      } else if (t == 0) {
        const bool valid = a.valid == nullptr || a.valid[b * s.tokens + row];
        const int cluster = valid ? nearest.index[half] : -1;
        const int64_t place = (kv * s.batch + b) * s.tokens + row;  // through the batch
        a.nearest.assignment[head * s.tokens + row] = cluster;
        a.nearest.compact[place] = static_cast<int16_t>(cluster);
        a.nearest.inverse_norm[place] = norm[half];
        if (first_cluster + clusters < s.clusters) a.nearest.score[place] = nearest.best[half];
      }
    }
  }
}

int64_t centroid_heads(const RouteSizes& s) {
  return s.centroids_by_batch ? s.batch * s.kv_heads : s.kv_heads;
}
int64_t tile_bytes(const RouteSizes& s, int parts) {
  return (s.clusters + 63) / 64 * 64 * s.width * 2 * parts;
}
int64_t shared_bytes(int64_t tiles, int64_t width, int parts) {
  return 1024 + tiles * 64 * (width * 2 * parts + 4);
}
int64_t all_tiles(const RouteSizes& s) { return (s.clusters + 63) / 64; }
// Of 64 clusters, of a launch of the assignment; the launches are of equal size, or nearly.
int64_t nearest_tiles(const RouteSizes& s) {
  const int64_t fit = (kNearestPartBytes - 1024) / (64 * (s.width * 4 + 4));
  const int64_t launches = (all_tiles(s) + fit - 1) / fit;
  return (all_tiles(s) + launches - 1) / launches;
}

template <int kWidth, bool kRoute>
cudaError_t launch(const RouteSizes& s, const float* centroids, RouteArguments a,
                   cudaStream_t stream) {
  constexpr int kParts = kRoute ? 1 : 2;
  const int64_t elements = centroid_heads(s) * all_tiles(s) * 64 * s.width;
  prepare_kernel<<<static_cast<unsigned>((elements + 255) / 256), 256, 0, stream>>>(
      centroid_heads(s), static_cast<int>(s.clusters), kWidth, kParts, centroids,
      const_cast<__nv_bfloat16*>(a.tiles));
  const int64_t each = kRoute ? all_tiles(s) : nearest_tiles(s);
  const int shared = static_cast<int>(shared_bytes(each, kWidth, kParts));
  const cudaError_t status = cudaFuncSetAttribute(
      route_kernel<kWidth, kRoute>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) return status;
  // Enough blocks to fill the device twice over; each reads its centroids once.
  const int64_t tiles = (s.tokens + 127) / 128, heads = s.batch * s.heads;
  int64_t blocks = (4 * 132 + heads - 1) / heads;
  if (blocks > tiles) blocks = tiles;
  for (int64_t first = 0; first < all_tiles(s); first += each) {
    a.first_tile = static_cast<int>(first);
    a.num_tiles = static_cast<int>(each < all_tiles(s) - first ? each : all_tiles(s) - first);
    route_kernel<kWidth, kRoute>
        <<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(heads)), kThreads, shared,
           stream>>>(a);
  }
  return cudaGetLastError();
}

}  // namespace

bool cluster_route_fits(const RouteSizes& s) {
  return s.slots <= kRouteMaxSlots && s.clusters <= kIndexMask + 1 &&
         shared_bytes(all_tiles(s), s.width, 1) <= kMaxSharedBytes &&
         (s.width == 64 || s.width == 128);
}

bool cluster_nearest_fits(const RouteSizes& s) { return s.width == 64 || s.width == 128; }

int64_t cluster_route_workspace_bytes(const RouteSizes& s) {
  return centroid_heads(s) * tile_bytes(s, 2);
}

cudaError_t launch_cluster_route(const RouteSizes& s, const void* queries, const float* centroids,
                                 int* routes, void* workspace, cudaStream_t stream) {
  if (!cluster_route_fits(s)) return cudaErrorInvalidValue;
  const RouteArguments a{s,
                         static_cast<const __nv_bfloat16*>(queries),
                         static_cast<const __nv_bfloat16*>(workspace),
                         nullptr,
                         nullptr,
                         routes,
                         {},
                         0,
                         0};
  return s.width == 64 ? launch<64, true>(s, centroids, a, stream)
                       : launch<128, true>(s, centroids, a, stream);
}

cudaError_t launch_cluster_nearest(const RouteSizes& s, const void* keys, const float* centroids,
                                   const float* bias, const bool* valid, const NearestOutputs& out,
                                   void* workspace, cudaStream_t stream) {
  if (!cluster_nearest_fits(s)) return cudaErrorInvalidValue;
  const RouteArguments a{s,
                         static_cast<const __nv_bfloat16*>(keys),
                         static_cast<const __nv_bfloat16*>(workspace),
                         bias,
                         valid,
                         nullptr,
                         out,
                         0,
                         0};
  return s.width == 64 ? launch<64, false>(s, centroids, a, stream)
                       : launch<128, false>(s, centroids, a, stream);
}

}  // namespace dsrsq::kernels
