// `dsrsq-bench --suite stream`: what a token of an endless text costs, and what is held, against
// how many were read before it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dsrsq/eval/report.h"
#include "dsrsq/methods/text_stream.h"

namespace dsrsq::bench {

struct StreamSuiteOptions {
  int64_t tokens = 262144;  // read
  int64_t points = 16;      // measured at, evenly spaced
  int64_t position_range = 0;
  std::shared_ptr<HistoryStore> history;  // null: none
};

// Follows `text`, again from its beginning where it is too short. Method `store_none` or
// `store_disk`; with `tokens` in the shape, of the tokens since the point before:
//   token_time, token_core_time   s and core s, the median over pieces of one segment (p10, p90)
//   token_time_over_first_point   without a history: the time of a segment over that of the stream
//                                 as it was at the first point, in turns, the median (p10, p90)
//   state, rss_anon               bytes carried on, and of the process's own memory, at the point
//   age_median, age_oldest        of the held pairs, tokens
//   finite                        1 where every number that is held is finite
//   scan                          s of one question's search over all history, alone
// Throws ConfigError where the model reads no stream, or more points are asked for than tokens.
std::vector<ResultRecord> run_stream_suite(const StreamSuiteOptions& options, LanguageModel& model,
                                           const std::vector<int32_t>& text);

}  // namespace dsrsq::bench
