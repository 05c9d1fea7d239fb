// LongRAG (arXiv 2406.15319) within the given text: few long units instead of many passages. Units
// are the text's own passages (between blank lines), put together in their order up to
// rag.unit_tokens; where a text has none, it is one unit. A unit is as good as its best passage of
// rag.passage_words words.
#pragma once

#include "dsrsq/methods/rag.h"

namespace dsrsq {

// Units [begin, end) of tokens: `passage` [N], rising by 1 from passage to passage, joined as long
// as a unit has at most `most` tokens; a passage that is longer alone is a unit of its own.
std::vector<std::pair<int64_t, int64_t>> join_passages(const std::vector<int64_t>& passage,
                                                       int64_t most);

class LongRagMethod : public RagMethod {
 public:
  using RagMethod::RagMethod;
  std::string method_name() const override { return "longrag"; }

 protected:
  std::vector<RankedUnit> units(const Batch& batch, int64_t b,
                                const std::string& query) const override;
};

}  // namespace dsrsq
