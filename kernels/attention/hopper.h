// The few PTX instructions of sm_90a that the attention kernels use, one thin wrapper each.
//
// Every operand tile in shared memory is [rows][64] bf16, rows of 128 bytes, in the 128-byte
// swizzle: 16-byte chunk c of row r lies at chunk c ^ (r % 8). Tiles start at multiples of 1024
// bytes. Both ways to read such a tile are then one descriptor: along a row (the contraction runs
// over the 64 columns) and across rows (the contraction runs over the rows).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace dsrsq::kernels {

constexpr int kTileColumns = 64;
constexpr int kTileRowBytes = 128;
constexpr int kTileRows = 64;
constexpr int kTileBytes = kTileRows * kTileRowBytes;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Byte offset of a 16-byte chunk in a swizzled tile.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return static_cast<uint32_t>(row * kTileRowBytes + ((chunk ^ (row & 7)) << 4));
}

// ---- barriers and copies

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Contiguous bytes (a multiple of 16, 16-byte aligned) to shared memory by the copy engine.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, uint32_t bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// 16 bytes of one row; zeros where not `valid`.
__device__ __forceinline__ void copy_chunk(uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}

// The same of 4 or 8 bytes.
template <int kBytes>
__device__ __forceinline__ void copy_word(void* shared, const void* global, bool valid) {
  const int bytes = valid ? kBytes : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
               "l"(global), "n"(kBytes), "r"(bytes)
               : "memory");
}

// Adds eight bf16 to memory, each rounded; on its way when this returns.
__device__ __forceinline__ void add_in_memory(void* global, const uint4& x) {
  asm volatile("red.global.add.noftz.v4.bf16x2 [%0], {%1,%2,%3,%4};" ::"l"(global), "r"(x.x),
               "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}

__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// What ordinary stores and cp.async wrote becomes visible to wgmma; before the block's barrier.
__device__ __forceinline__ void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Four 8 x 8 matrices of bf16 to shared memory: lane l gives the address of row l % 8 of matrix
// l / 8, and holds of each matrix row l / 4, columns 2 (l % 4) and the next.
__device__ __forceinline__ void store_matrices(uint32_t shared, const uint32_t* a) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared),
               "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}

// Registers of a warpgroup's threads, for kernels whose warpgroups have different work.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- wgmma: D[64 x 64] += A[64 x 16] B[16 x 64], bf16 operands, fp32 sums. A warpgroup's thread
// (warp w, lane 4 g + t) holds of D rows 16 w + g and + 8: d[4 i + {0, 1}] is row g, columns
// 8 i + 2 t + {0, 1}; d[4 i + {2, 3}] the row 8 below.

constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;

// Groups of 8 rows lie `kGroupBytes` apart, in either reading of a tile.
template <int kGroupBytes = 1024>
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t shared) {
  return kSwizzle128 | (uint64_t{kGroupBytes >> 4} << 32) | (uint64_t{1} << 16) |
         ((shared & 0x3ffff) >> 4);
}

// Contraction over columns: step s covers columns 16 s to 16 s + 15.
constexpr uint64_t kColumnStep = 32 >> 4;
// Contraction over rows: step s covers rows 16 s to 16 s + 15, two groups.
constexpr uint64_t kRowStep = 2048 >> 4;
// Keys and values in cluster order come in turns, a group of 8 rows of each.
constexpr int kPairGroupBytes = 2048;
constexpr uint64_t kPairRowStep = 2 * kPairGroupBytes >> 4;

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define DSRSQ_ACCUMULATORS(d)                                                                     \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define DSRSQ_ACCUMULATOR_LIST                                                                  \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
  "%25,%26,%27,%28,%29,%30,%31}"

// The same, and keeps the registers of an A operand untouched until then: the compiler does not
// know that a wgmma in flight still reads them.
template <int kPending>
__device__ __forceinline__ void wgmma_wait(uint32_t (&a)[16]) {
  asm volatile("wgmma.wait_group.sync.aligned %16;"
               : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3]), "+r"(a[4]), "+r"(a[5]), "+r"(a[6]),
                 "+r"(a[7]), "+r"(a[8]), "+r"(a[9]), "+r"(a[10]), "+r"(a[11]), "+r"(a[12]),
                 "+r"(a[13]), "+r"(a[14]), "+r"(a[15])
               : "n"(kPending)
               : "memory");
}

// The same, for the accumulator of a product that is waited for while a later one runs.
template <int kPending>
__device__ __forceinline__ void wgmma_wait(float (&d)[32]) {
  asm volatile("wgmma.wait_group.sync.aligned %32;"
               : DSRSQ_ACCUMULATORS(d)
               : "n"(kPending)
               : "memory");
}

// ptxas 13.0 gives two A operands in registers the same registers where one of them does not change
// in a loop, and so overwrites it. An operand that is written in the loop is safe: hold() writes it
// what it holds, by a zero that the compiler cannot know to be one.
__device__ __forceinline__ uint32_t unknown_zero() {
  uint32_t zero;
  asm volatile("{\n.reg .u32 size;\nmov.u32 size, %%dynamic_smem_size;\nshr.u32 %0, size, 31;\n}"
               : "=r"(zero));
  return zero;
}
__device__ __forceinline__ void hold(uint32_t (&a)[16], uint32_t zero) {
#pragma unroll
  for (int i = 0; i < 16; ++i) asm volatile("xor.b32 %0, %0, %1;" : "+r"(a[i]) : "r"(zero));
}

// A in registers: {row g, columns 2 t}, {row g + 8}, {row g, columns 2 t + 8}, {row g + 8}.
template <bool kOverRows>
__device__ __forceinline__ void wgmma(float (&d)[32], const uint32_t* a, uint64_t b,
                                      bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " DSRSQ_ACCUMULATOR_LIST
      ", {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}"
      : DSRSQ_ACCUMULATORS(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)),
        "n"(int(kOverRows)));
}

// A in shared memory, its contraction over columns.
template <bool kOverRows>
__device__ __forceinline__ void wgmma(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " DSRSQ_ACCUMULATOR_LIST
      ", %32, %33, p, 1, 1, 0, %35;\n}"
      : DSRSQ_ACCUMULATORS(d)
      : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(kOverRows)));
}

// Both operands in shared memory, both contractions over rows.
__device__ __forceinline__ void wgmma_over_rows(float (&d)[32], uint64_t a, uint64_t b,
                                                bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " DSRSQ_ACCUMULATOR_LIST
      ", %32, %33, p, 1, 1, 1, 1;\n}"
      : DSRSQ_ACCUMULATORS(d)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

// ---- small arithmetic

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Transposes 4 x 4 values over the four lanes of a quad: lane t, element i becomes lane i,
// element t.
template <typename T>
__device__ __forceinline__ void quad_transpose(T& v0, T& v1, T& v2, T& v3) {
  const int t = threadIdx.x & 3;
  T v[4] = {v0, v1, v2, v3};
  T w[4];
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const int other = t ^ step;
    const T sent = other == 0 ? v[0] : other == 1 ? v[1] : other == 2 ? v[2] : v[3];
    const T got = step == 0 ? sent : __shfl_xor_sync(0xffffffffu, sent, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = other == i ? got : w[i];
  }
  v0 = w[0], v1 = w[1], v2 = w[2], v3 = w[3];
}

}  // namespace dsrsq::kernels
