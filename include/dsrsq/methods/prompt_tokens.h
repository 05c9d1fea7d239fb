// Methods that let the model read before they choose what it reads: what that costs.
#pragma once

#include <cstdint>
#include <vector>

namespace dsrsq {

class PromptTokens {
 public:
  virtual ~PromptTokens() = default;
  // Tokens that went through the blocks for the last batch's choice, [B].
  virtual const std::vector<int64_t>& tokens_to_choose() const = 0;
};

}  // namespace dsrsq
