// Decoding of a batch, greedy or sampled: prefill once, then token by token from the method's
// state.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "dsrsq/model/transformer.h"

namespace dsrsq {

// How tokens behind the first are read.
enum class Decoding {
  kAuto,   // recorded where the device and the method can, else eager
  kEager,  // operator by operator, tensors growing with the answer
  kFixed,  // in reserved room as a recorded step has it, without recording: to check that with
};

struct GenerateOptions {
  int64_t maximum_tokens = 16;
  int32_t end_id = -1;
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // sampled from the k most probable; 0: from all
  double top_p = 1;        // and from the fewest whose probability reaches p
  int64_t seed = 0;        // of the sampling, with the sequence's sample id and the step (D21)
  // Asked after every token with what a sequence has so far: true ends it (stop strings).
  std::function<bool(const std::vector<int32_t>&)> stop = nullptr;
  // Called behind every prompt, before a token is chosen, outside the measured times: final hidden
  // of the tail [B, T, D], and the state, of which a copy may be read on.
  std::function<void(const at::Tensor& tail_hidden, const MethodState& state)> prompt_read =
      nullptr;
  Decoding decoding = Decoding::kAuto;
};

// The next token of each sequence, int64 [B], from fp32 logits [B, V]. `sample_ids`, `step`: name
// the noise.
at::Tensor next_tokens(const at::Tensor& logits, const GenerateOptions& options,
                       const std::vector<int64_t>& sample_ids, int64_t step);

struct Generated {
  std::vector<std::vector<int32_t>> tokens;  // [B], without the end token
  double select_seconds = 0;                 // preparing and choosing tokens
  double prefill_seconds = 0;  // reading what was chosen and the question, up to the first token
  double decode_seconds = 0;
  int64_t decoded_tokens = 0;  // steps x unfinished sequences
  bool recorded = false;       // steps were replayed as one CUDA graph
  double record_seconds = 0;   // of decode_seconds: the first step and recording the second
  int64_t state_bytes = 0;     // held after the last step, all sequences (D24)
  MethodState state;           // as it stands after the last step
};

// Several more tokens of each sequence at once, as LanguageModel::read_next reads one: ids [B, T],
// valid bool [B, T], padding at the end -> hidden [B, T, D].
at::Tensor read_more(LanguageModel& model, const at::Tensor& ids, const at::Tensor& valid,
                     MethodState& state);

// `batch` collated without answers (the tail ends with the question).
Generated generate(LanguageModel& model, const Batch& batch, const PassOptions& options,
                   const GenerateOptions& generate);

// The same for each of `options`, which differ in their budget alone: use(i, generated) is called
// in their order, and the state is dropped behind it, so that states need not fit side by side. A
// SharedPrompt reads the prompt once for all; its times hold what a budget does on its own.
void generate_budgets(LanguageModel& model, const Batch& batch,
                      const std::vector<PassOptions>& options, const GenerateOptions& generate,
                      const std::function<void(size_t, const Generated&)>& use);

}  // namespace dsrsq
