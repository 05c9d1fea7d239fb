#include "dsrsq/bench/stream_suite.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "dsrsq/bench/case_records.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/memory.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq::bench {
namespace {

constexpr size_t kQuestion = 8;  // tokens of the question that is searched for
constexpr int64_t kTurns = 32;   // two segments of the whole stream and of its beginning each

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  auto place = q * double(values.size() - 1);
  auto low = size_t(place);
  auto high = std::min(low + 1, values.size() - 1);
  return values[low] + (place - double(low)) * (values[high] - values[low]);
}

}  // namespace

std::vector<ResultRecord> run_stream_suite(const StreamSuiteOptions& o, LanguageModel& model,
                                           const std::vector<int32_t>& text) {
  TextStreamOptions options;
  options.position_range = o.position_range;
  if (o.history) options.histories = {o.history};
  TextStream stream(model, options);
  auto segment = dynamic_cast<DsrsqMethod&>(model->method()).config().rckv.segment;
  if (o.points < 1 || o.tokens / o.points < segment)
    throw ConfigError(concat("--stream-tokens: expected at least --points x rckv.segment = ",
                             o.points * segment, ", got ", o.tokens, "; raise it"));
  if (text.empty()) throw ConfigError("--text: expected some text, got none");
  const std::string method = o.history ? "store_disk" : "store_none";
  CaseRecords records("stream", {});
  auto begun = stream.tokens();
  size_t next = 0;
  const auto next_piece = [&] {
    std::vector<int32_t> piece;
    for (int64_t i = 0; i < segment; ++i) piece.push_back(text[next++ % text.size()]);
    return piece;
  };
  const auto timed = [&](TextStream& read, const std::vector<int32_t>& piece) {
    Timer timer;
    read.feed(piece);
    if (model->device().is_cuda()) torch::cuda::synchronize(model->device().index());
    return timer.seconds() / double(segment);
  };
  std::map<std::string, at::Tensor> young_state;
  for (int64_t point = 1; point <= o.points; ++point) {
    std::vector<double> wall, core;
    while (stream.tokens() - begun < o.tokens * point / o.points) {
      auto piece = next_piece();
      auto core_seconds = process_core_seconds();
      wall.push_back(timed(stream, piece));
      core.push_back((process_core_seconds() - core_seconds) / double(segment));
    }
    const std::map<std::string, double> at{{"tokens", double(stream.tokens() - begun)}};
    const auto add = [&](const char* metric, double value,
                         const std::string& unit) -> ResultRecord& {
      return records.add(method, metric, value, unit, at);
    };
    for (const auto& [metric, unit, times] :
         {std::tuple{"token_time", "s", &wall}, {"token_core_time", "core s", &core}}) {
      auto& record = add(metric, quantile(*times, 0.5), unit);
      record.p10 = quantile(*times, 0.1);
      record.p90 = quantile(*times, 0.9);
    }
    // Beside itself as it was at the first point, in turns: other programs slow both alike.
    if (!o.history) {
      if (young_state.empty()) young_state = stream.tensors();
      TextStream old(model, options), young(model, options);
      old.restore(stream.tensors(), "stream");
      young.restore(young_state, "stream");
      std::vector<double> ratios;
      for (int64_t turn = 0; turn < kTurns; ++turn) {  // who is first is slower: each once
        auto piece = next_piece();
        auto a = timed(old, piece), b = timed(young, piece);
        piece = next_piece();
        auto c = timed(young, piece), d = timed(old, piece);
        ratios.push_back(std::sqrt(a / b * d / c));
      }
      auto& ratio = add("token_time_over_first_point", quantile(ratios, 0.5), "x");
      ratio.p10 = quantile(ratios, 0.1);
      ratio.p90 = quantile(ratios, 0.9);
    }
    auto health = stream.health();
    add("state", double(health.state_bytes), "bytes");
    add("rss_anon", double(own_memory_bytes()), "bytes");
    add("age_median", health.age_median, "tokens");
    add("age_oldest", health.age_oldest, "tokens");
    add("finite", health.finite ? 1 : 0, "1");
    if (o.history) {
      std::vector<int32_t> question(text.begin(),
                                    text.begin() + int64_t(std::min(kQuestion, text.size())));
      GenerateOptions generate;
      generate.maximum_tokens = 1;
      auto reply = stream.answer({question}, generate);
      auto& scan = add("scan", reply.scan_seconds, "s");
      scan.shape = {{"tokens", double(reply.scanned_tokens)},
                    {"bytes", double(reply.scanned_bytes)}};
    }
    log_info(method, ": ", stream.tokens() - begun, " tokens, ", quantile(wall, 0.5) * 1e6,
             " us a token, ", health.state_bytes, " bytes");
  }
  return records.all;
}

}  // namespace dsrsq::bench
