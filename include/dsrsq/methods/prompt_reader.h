// Prompts that a method reads on its own before it chooses what the reader reads: beside each
// other, with dense attention.
#pragma once

#include <memory>
#include <vector>

#include "dsrsq/model/method.h"

namespace dsrsq {

class PromptReader {
 public:
  PromptReader(const AttentionShape& shape, const LanguageModelView& model, at::Device device);
  ~PromptReader();
  // From their beginning: fp32 logits [C, V] of what follows each prompt.
  at::Tensor read(const std::vector<std::vector<int64_t>>& prompts);
  // One more token each, `ids` int64 [C, 1]: logits [C, V] again. With `record` the attention of
  // that token is added to read_mass().
  at::Tensor next(const at::Tensor& ids, bool record = false);
  // MethodState::read_mass of what was recorded.
  const at::Tensor& read_mass() const { return state_.read_mass; }

 private:
  const LanguageModelView& model_;
  std::unique_ptr<Method> method_;
  MethodState state_;
  at::Device device_;
  at::Tensor length_;  // [C, 1] int64, tokens read so far
};

// Greedy continuations, at most `most` tokens each; one ends before the first token for which
// stops(token) is true. Read a part at a time, so that memory does not grow with their number.
std::vector<std::vector<int32_t>> continue_prompts(const std::vector<std::vector<int64_t>>& prompts,
                                                   int64_t most,
                                                   const std::function<bool(int32_t)>& stops,
                                                   const AttentionShape& shape,
                                                   const LanguageModelView& model,
                                                   at::Device device);

// Numbers [begin, end) of prompts in a row that are read at a time.
std::vector<std::pair<size_t, size_t>> prompt_parts(
    const std::vector<std::vector<int64_t>>& prompts);

}  // namespace dsrsq
