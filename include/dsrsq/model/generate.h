// Greedy decoding of a batch: prefill once, then token by token from the method's state.
#pragma once

#include <cstdint>
#include <vector>

#include "dsrsq/model/transformer.h"

namespace dsrsq {

struct GenerateOptions {
  int64_t maximum_tokens = 16;
  int32_t end_id = -1;
};

struct Generated {
  std::vector<std::vector<int32_t>> tokens;  // [B], without the end token
  double select_seconds = 0;                 // preparing and choosing tokens
  double prefill_seconds = 0;  // reading what was chosen and the question, up to the first token
  double decode_seconds = 0;
  int64_t decoded_tokens = 0;  // steps x unfinished sequences
  int64_t state_bytes = 0;     // held after the last step, all sequences (D24)
  MethodState state;           // as it stands after the last step
};

// `batch` collated without answers (the tail ends with the question).
Generated generate(LanguageModel& model, const Batch& batch, const PassOptions& options,
                   const GenerateOptions& generate);

}  // namespace dsrsq
