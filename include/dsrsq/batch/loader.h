// Batches as a pure function of their number: batch i of a split is the same whenever and wherever
// it is asked for, so a resumed run continues at any position for nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/batch/collate.h"
#include "dsrsq/batch/prompt_limit.h"
#include "dsrsq/batch/text_chunks.h"

namespace dsrsq {

struct LoaderOptions {
  std::string split = "train";
  int64_t batch_size = 8;  // sequences
  int64_t questions_per_sequence =
      1;                // at most; consecutive records of one document share a sequence
  bool shuffle = true;  // a new order each epoch; else file order
  bool with_answers = true;
  int64_t maximum_context = 0;
  int64_t chunk_tokens = 128;     // of texts without questions: a sequence is a chunk of one
  PromptLimit prompt_limit = {};  // of evaluation: pass_batch and single
  int64_t seed = 0;
  int64_t maximum_sequences = 0;                             // 0: all
  std::shared_ptr<const EncoderCollator> encoder = nullptr;  // null: no sentence encoder
};

class Loader {
 public:
  // Opens the store and checks its tokenizer. A split holds questions, or texts without any
  // (text_chunks.h), by its first record. Throws DataError.
  Loader(const std::string& path, const Tokenizer& tokenizer, const PromptConfig& prompt,
         const LoaderOptions& options);

  // Training: batch `index` of an endless stream of epochs (shuffle) - always batch_size sequences.
  Batch stream_batch(int64_t index) const;
  // Evaluation: batch `index` of one pass; the last may be smaller.
  Batch pass_batch(int64_t index) const;
  // Sequence number `sequence` of the pass, alone: for latencies at batch size 1.
  Batch single(int64_t sequence) const;
  int64_t pass_batches() const;
  double mean_context_tokens() const;  // over sequences, as they are cut
  int64_t sequences() const { return int64_t(holds_texts() ? chunks_.size() : sequences_.size()); }
  bool holds_texts() const { return texts_ != nullptr; }  // without questions, to predict
  const Store& store() const { return *store_; }
  const PromptConfig& prompt() const { return prompt_; }

 private:
  void find_questions(const std::vector<int64_t>& records);
  void find_chunks(const std::vector<int64_t>& records, const Tokenizer& tokenizer);
  Batch collate(const std::vector<size_t>& sequences) const;

  LoaderOptions options_;
  PromptConfig prompt_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Collator> collator_;
  std::vector<std::vector<int64_t>> sequences_;  // records
  std::unique_ptr<TextCollator> texts_;          // of a split of texts
  std::vector<TextChunk> chunks_;
};

}  // namespace dsrsq
