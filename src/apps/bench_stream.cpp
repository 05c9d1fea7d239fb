#include "bench_stream.h"

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/registry.h"

namespace dsrsq {

void add_bench_stream_options(CLI::App& app, BenchStreamOptions& o) {
  app.add_option("--stream-tokens", o.suite.tokens, "stream: read")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--points", o.suite.points, "stream: measured at")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--store", o.store, "stream: file of all history, searched at every point");
  app.add_option("--set", o.settings, "stream: a.b=c: overrides one key of the model (repeatable)")
      ->take_all();
}

std::vector<ResultRecord> run_stream_bench(const BenchStreamOptions& o, const std::string& model,
                                           const std::string& text, const std::string& device) {
  if (model.empty() || text.empty())
    throw ConfigError(
        "--suite stream: expected --model and --text, got only one or none; give both");
  auto settings = o.settings;
  settings.push_back("train.device=" + device);
  auto opened = open_model(find_model(model, "", settings));
  opened.model->eval();
  auto suite = o.suite;
  if (!o.store.empty())
    suite.history =
        std::make_shared<HistoryStore>(o.store, TextStream::history_layout(opened.model));
  return bench::run_stream_suite(suite, opened.model, opened.tokenizer->encode(read_file(text)));
}

}  // namespace dsrsq
