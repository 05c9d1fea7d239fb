// A sequence on its way from stored records to a row of a Batch. Private to src/batch.
#pragma once

#include <vector>

#include "dsrsq/batch/collate.h"

namespace dsrsq {

inline constexpr int64_t kNoLabel = -100;

struct Sequence {
  std::vector<int32_t> context;
  std::vector<int64_t> passages;
  std::vector<std::vector<int32_t>> questions;
  std::vector<int64_t> tail;
  std::vector<int64_t> labels;
  std::vector<int64_t> label_question;
  std::vector<StoredRecord> records;
  int64_t sample_id = 0;
};

// One row a sequence, padded to the longest. `encoder`: null where the run has none.
Batch stack(std::vector<Sequence> rows, const Tokenizer& tokenizer, const EncoderCollator* encoder);

}  // namespace dsrsq
