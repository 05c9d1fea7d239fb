#include "bench_trained.h"

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/registry.h"

namespace dsrsq {

std::vector<ResultRecord> run_trained_suite_on(const std::string& model, const std::string& text,
                                               const std::string& device,
                                               const bench::TrainedSuiteOptions& options) {
  if (model.empty() || text.empty())
    throw ConfigError(
        "--suite trained: expected --model and --text, got only one or none; give both");
  auto opened = open_model(find_model(model, "", {"train.device=" + device}));
  return bench::run_trained_suite(options, opened.model, opened.tokenizer->encode(read_file(text)));
}

}  // namespace dsrsq
