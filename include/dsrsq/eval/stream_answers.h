// Answers the probes of a fact stream (data/fact_stream.h): what a row reads of the text up to the
// probe, and what the reader makes of it. All rows read with the same weights, prompt and number of
// tokens; they differ in which tokens. The text is encoded once for all probes, chunk by chunk:
// beside the tokens, memory depends on the probes and not on the text's length.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/batch/collate.h"
#include "dsrsq/data/fact_stream.h"
#include "dsrsq/eval/adaptation.h"
#include "dsrsq/methods/selectors.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq {

// Which tokens before the probe a row reads, in the order of the text.
enum class StreamChoice {
  kRetrieved,  // the best by the method's own retriever, over all of them
  kWindow,     // the last ones
  kRandom,     // uniformly drawn
  kBm25,       // whole passages by BM25 of the question, the last one cut
  kOracle,     // the fact's last statement, then random ones: bounds what a retriever could do
  kNothing,    // none: what the weights know of themselves
};

struct StreamOptions {
  StreamChoice choice = StreamChoice::kRetrieved;
  int64_t budget = 64;          // tokens of the text that are read, at most
  int64_t segment = 512;        // tokens of a reader segment (rckv.segment)
  int64_t batch_size = 64;      // probes
  int64_t maximum_tokens = 16;  // decoded an answer
  int64_t seed = 0;             // of random tokens
  SelectorConfig selector;
};

struct StreamAnswer {
  std::string id, prediction;
  double evidence_recall = -1;  // share of the last statement's tokens that were read; -1: control
  ProbeAnswer scored;
};

// In the order of stream.probes. Throws ConfigError where the model has no retriever to choose
// with.
std::vector<StreamAnswer> answer_stream(LanguageModel& model, const Tokenizer& tokenizer,
                                        const PromptConfig& prompt, const FactStream& stream,
                                        const StreamOptions& options, const std::string& label);

// The control without a model: the one answer that is right most often, always.
std::vector<StreamAnswer> answer_constantly(const FactStream& stream);

}  // namespace dsrsq
