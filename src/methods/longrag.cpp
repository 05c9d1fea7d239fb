#include "dsrsq/methods/longrag.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>

namespace dsrsq {

std::vector<std::pair<int64_t, int64_t>> join_passages(const std::vector<int64_t>& passage,
                                                       int64_t most) {
  std::vector<std::pair<int64_t, int64_t>> units;
  auto length = int64_t(passage.size());
  for (int64_t begin = 0; begin < length;) {
    auto end = begin;
    while (end < length && passage[size_t(end)] == passage[size_t(begin)]) ++end;
    bool joins = !units.empty() && end - units.back().first <= most;
    if (joins)
      units.back().second = end;
    else
      units.emplace_back(begin, end);
    begin = end;
  }
  return units;
}

std::vector<LongRagMethod::RankedUnit> LongRagMethod::units(const Batch& batch, int64_t b,
                                                            const std::string& query) const {
  auto passages = RagMethod::units(batch, b, query);
  auto length = int64_t(context_ids(batch, b).size());
  auto row = batch.passage[b].to(at::kCPU).contiguous();
  const auto* of_token = row.data_ptr<int64_t>();
  std::vector<RankedUnit> ranked;
  for (auto [begin, end] : join_passages({of_token, of_token + length}, rag_.unit_tokens)) {
    RankedUnit unit{begin, end, -std::numeric_limits<double>::infinity()};
    // A passage over a border counts for the unit that holds its middle.
    for (const auto& passage : passages)
      if (auto middle = (passage.begin + passage.end) / 2; middle >= begin && middle < end)
        unit.score = std::max(unit.score, passage.score);
    ranked.push_back(unit);
  }
  return ranked;
}

}  // namespace dsrsq
