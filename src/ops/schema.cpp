// Every operator of dsrsq in one place. torch allows one TORCH_LIBRARY per namespace; the
// implementations register beside their code. Callers use the typed wrappers in include/dsrsq/ops/,
// never these names.
#include <torch/library.h>

TORCH_LIBRARY(dsrsq, m) {
  // clang-format off
  m.def("cluster_assign(Tensor keys, Tensor centroids, Tensor bias, Tensor? valid) -> (Tensor assignment, Tensor raw_sum, Tensor direction_sum, Tensor count)");
  // clang-format on
}
