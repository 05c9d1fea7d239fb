#include "dsrsq/bench/stream_suite.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <set>

#include "dsrsq/core/error.h"
#include "support/tiny.h"
#include "support/tiny_run.h"

namespace dsrsq::bench {
namespace {

using namespace dsrsq::testing;

std::vector<int32_t> tiny_text() {
  auto ids = token_ids("text", {100}).to(at::kInt);
  return {ids.data_ptr<int32_t>(), ids.data_ptr<int32_t>() + 100};
}

TEST(StreamSuite, MeasuresEveryPoint) {
  torch::NoGradGuard no_grad;
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  const TemporaryFolder folder;
  for (bool store : {false, true}) {
    StreamSuiteOptions options;
    options.tokens = 320;
    options.points = 4;
    options.position_range = 64;
    if (store)
      options.history =
          std::make_shared<HistoryStore>(folder / "history", TextStream::history_layout(model));
    std::map<std::string, std::set<double>> found;  // metric -> tokens
    std::set<double> state;
    for (const auto& record : run_stream_suite(options, model, tiny_text())) {
      EXPECT_EQ(record.method, store ? "store_disk" : "store_none");
      EXPECT_GT(record.value, 0) << record.metric;
      if (record.p10) {
        EXPECT_LE(*record.p10, record.value);
        EXPECT_GE(*record.p90, record.value);
      }
      found[record.metric].insert(record.shape.at("tokens"));
      if (record.metric == "state") state.insert(record.value);
    }
    const std::set<double> points{80, 160, 240, 320};
    for (const char* metric : {"token_time", "token_core_time", "state", "rss_anon", "age_median"})
      EXPECT_EQ(found[metric], points) << metric;
    EXPECT_EQ(state.size(), 1u);
    EXPECT_EQ(found["token_time_over_first_point"], store ? std::set<double>{} : points);
    // All but the 4 tokens of the window.
    const std::set<double> scanned{76, 156, 236, 316};
    EXPECT_EQ(found["scan"], store ? scanned : std::set<double>{});
  }
}

TEST(StreamSuite, RefusesMorePointsThanSegments) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  StreamSuiteOptions options;
  options.tokens = 20;
  options.points = 4;
  EXPECT_THROW(run_stream_suite(options, model, tiny_text()), ConfigError);
  EXPECT_THROW(run_stream_suite({}, model, {}), ConfigError);
}

}  // namespace
}  // namespace dsrsq::bench
