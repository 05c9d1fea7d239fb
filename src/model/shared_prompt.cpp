#include "dsrsq/model/shared_prompt.h"

#include <torch/torch.h>

namespace dsrsq {

void follow_branch(const MethodState& state, MethodState& branch) {
  branch.conv_tails = state.conv_tails;
  branch.stats = state.stats;
}

}  // namespace dsrsq
