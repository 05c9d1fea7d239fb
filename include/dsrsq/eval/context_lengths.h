// Perplexity against context length: how well the same last tokens of each text are predicted when
// only so many tokens before them may be read. What a method gains from a longer context, without
// questions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/batch/text_chunks.h"
#include "dsrsq/eval/report.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq {

struct ContextLengthOptions {
  std::vector<int64_t> lengths;  // tokens before a chunk that may be read, its query among them;
                                 // rising, the first at least a chunk
  int64_t scored_tokens = 128;   // T: the last tokens of each text, predicted chunk by chunk
  int64_t chunk_tokens = 128;
  int64_t batch_size = 32;
  int64_t maximum_texts = 0;  // the first so many; 0: all
};

// One text that is long enough for every length: T tokens and the longest context before them.
struct ScoredText {
  int64_t record = 0;
  int64_t tokens = 0;  // of the document
  std::string id;
  std::vector<double> loss;         // a length: mean nats of a scored token
  std::vector<double> tokens_read;  // a length: context tokens that the reader reads for a chunk,
                                    // mean
};

// Texts of a split that are long enough, without values. Throws ConfigError for a bad list of
// lengths, DataError where no text is long enough, saying how long the longest is.
std::vector<ScoredText> find_scored_texts(const Store& store, const std::string& split,
                                          const ContextLengthOptions& options);

// The chunks of `text` that end with it, each with `length` tokens before it.
std::vector<TextChunk> scored_chunks(const ScoredText& text, int64_t length,
                                     const ContextLengthOptions& options);

// Fills loss and tokens_read of every text and length. Each chunk is read teacher-forced, as in
// training, in a sequence of its own.
void score_texts(LanguageModel& model, const TextCollator& collator, const PassOptions& pass,
                 const ContextLengthOptions& options, std::vector<ScoredText>& texts);

// Of each length n: loss_context_N (nats a token) and perplexity_context_N, its exponential, with
// 95 % bootstrap intervals over texts, and tokens_read_context_N. Where `baseline` is another row
// of the same texts, loss has its paired difference to it. Shape: context_tokens, scored_tokens,
// texts.
std::vector<ResultRecord> context_length_records(const std::vector<ScoredText>& texts,
                                                 const ContextLengthOptions& options,
                                                 const std::string& case_name,
                                                 const std::string& row,
                                                 const std::vector<ScoredText>* baseline,
                                                 const std::string& baseline_row);

}  // namespace dsrsq
