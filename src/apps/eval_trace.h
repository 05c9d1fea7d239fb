// dsrsq-eval --trace: one HTML page a question that shows what was read of its document.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/eval/evaluator.h"

namespace dsrsq {

struct TraceRequest {
  std::string row;
  std::string split;
  int64_t questions = 0;  // the first ones of the split; all of them where it has fewer
  std::string budget;     // in words: what the method reads where PassOptions asks for no budget
};

struct TracePage {
  std::string file;  // "001-dsrsq.html"; of the row's name only what a file name may hold
  std::string html;
};

// A page a question, read alone by greedy decoding, and "index.html" as the last one. A page loads
// nothing from elsewhere. Each picked token is a <span class="p ..."> of its own, whose title names
// its position in the document ("token 17") and, where the method has scores, its score and its
// rank among the picked tokens; a blank in front of its text stands outside of it, and tokens that
// only together are a character share a span. Of a document of more than 4,000 tokens only the
// surroundings of picked, evidence and answer tokens are shown.
std::vector<TracePage> trace_pages(LanguageModel& model, const Loader& loader,
                                   const Tokenizer& tokenizer, const EvalConfig& config,
                                   const PassOptions& options, const TraceRequest& request);

// Writes them into `folder` and removes pages that an earlier trace left there. Throws Error.
void write_trace(const std::string& folder, const std::vector<TracePage>& pages);

}  // namespace dsrsq
