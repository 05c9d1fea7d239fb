#include "support/tolerance.h"

#include <map>
#include <utility>

namespace dsrsq::testing {

Tolerance parity_tolerance(const std::string& op, at::ScalarType dtype) {
  static const std::map<std::pair<std::string, at::ScalarType>, Tolerance> kTable = {
      // Sums of a few hundred members in fp32; bf16 keys are widened exactly, so they need no more.
      {{"cluster_assign", at::kDouble}, {1e-5, 1e-5}},
      {{"cluster_assign", at::kFloat}, {1e-5, 1e-5}},
      {{"cluster_assign", at::kBFloat16}, {1e-5, 1e-5}},
      {{"cluster_assign", at::kHalf}, {1e-5, 1e-5}},
  };
  return kTable.at({op, dtype});
}

}  // namespace dsrsq::testing
