// One decoding step of a batch. On a GPU the host is the bottleneck of it: hundreds of small
// operators, each launched for a few microseconds of work. Where the shapes stay as they are the
// step is recorded once, as a CUDA graph, and replayed for every further token.
#pragma once

#include <functional>
#include <vector>

#include "dsrsq/model/generate.h"

namespace dsrsq {

class DecodeStep {
 public:
  // Steps behind the prompt that `state` has read, at most settings.maximum_tokens. Greedy unless
  // the settings say otherwise. What stands in the way of a recorded step is logged once.
  DecodeStep(LanguageModel& model, const std::vector<int64_t>& sample_ids,
             const GenerateOptions& settings, MethodState& state);
  DecodeStep(const DecodeStep&) = delete;
  DecodeStep& operator=(const DecodeStep&) = delete;

  // Reads ids int64 [B] of the sequences that are open (bool [B] on the host; all of them where
  // B = 1) -> the next token of each, int64 [B], valid until the next call.
  at::Tensor next(const at::Tensor& ids, const at::Tensor& open);
  // Gives the reserved room back; the state is as after eager steps.
  void finish();
  bool recorded() const { return bool(replay_); }

 private:
  at::Tensor choose(const at::Tensor& ids, const at::Tensor& open, bool padded);
  void run();
  void record();

  LanguageModel& model_;
  const std::vector<int64_t>& sample_ids_;
  const GenerateOptions& settings_;
  MethodState& state_;
  bool fixed_ = false, records_ = false, padded_ = false;
  int64_t steps_ = 0;
  at::Tensor ids_, open_, next_;  // what a recorded step reads and writes
  std::function<void()> replay_;  // of the recorded step; empty: none is
};

}  // namespace dsrsq
