// What torch's profiler counts, to check analytic counts (eval/efficiency.h) against.
#pragma once

#include <functional>

namespace dsrsq::bench {

// Floating-point operations of the matrix products (mm, addmm, bmm, baddbmm) that run on the host's
// thread while `work` runs, on whatever device, by the profiler's own formulas. It has none for
// fused attention (flash, cuDNN, the CPU's), for our operators, convolutions of ours or embeddings,
// and sees nothing inside them.
double profiled_matmul_flops(const std::function<void()>& work);

}  // namespace dsrsq::bench
