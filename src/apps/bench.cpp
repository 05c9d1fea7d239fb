// dsrsq-bench: operators and training against what else does the same, timed in one process.
#include <torch/torch.h>

#include <nlohmann/json.hpp>

#include "bench_attention.h"
#include "bench_data.h"
#include "bench_generate.h"
#include "bench_latent.h"
#include "bench_retrieval.h"
#include "bench_stream.h"
#include "bench_train.h"
#include "bench_trained.h"
#include "dsrsq/bench/device.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "run_program.h"

namespace {

using namespace dsrsq;

struct Options {
  std::string suite = "attention", device = "cuda", output, log_level = "info";
  int64_t threads = 0;
  BenchAttentionOptions attention;
  BenchTrainedOptions trained;
  BenchTrainOptions train;
  BenchGenerateOptions generate;
  BenchStreamOptions stream;
  BenchRetrievalOptions retrieval;
  BenchLatentOptions latent;
  BenchDataOptions data;
};

void add_options(CLI::App& app, Options& o) {
  app.add_option(
         "--suite", o.suite,
         "attention: over clusters, whole operator, against dense; trained: what it loses "
         "and saves on a trained model's keys; train: a training step; generate: prefill and "
         "decoding apart, over batches and lengths; decode: the same, with answers decoded as one "
         "recorded step and operator by operator; stream: endless text; retrieval: choosing "
         "tokens and entering the reservoir; latent: entering and reading the latent buffer; "
         "data: reading and tokenizing a file")
      ->check(CLI::IsMember({"attention", "trained", "train", "generate", "decode", "stream",
                             "retrieval", "latent", "data"}))
      ->capture_default_str();
  app.add_option("--device", o.device, "cpu, cuda, cuda:N")->capture_default_str();
  app.add_option("--output", o.output, "results.json to write")->required();
  add_attention_options(app, o.attention);
  add_trained_options(app, o.trained);
  add_train_options(app, o.train);
  add_generate_options(app, o.generate);
  add_bench_stream_options(app, o.stream);
  add_retrieval_options(app, o.retrieval);
  add_latent_options(app, o.latent);
  add_data_options(app, o.data);
  app.add_option("--threads", o.threads, "of a CPU; 0: all");
  app.add_option("--log-level", o.log_level, "debug, info, warning, error")->capture_default_str();
}

std::vector<ResultRecord> run_suite(const Options& o, at::Device device, const SaveRecords& save) {
  if (o.suite == "train") return run_train(o.train, o.attention, device, save);
  if (o.suite == "trained") return run_trained(o.trained, o.attention, o.device);
  if (o.suite == "generate" || o.suite == "decode")
    return run_generate(o.generate, o.attention, o.train.suite, o.suite == "decode", device, save);
  if (o.suite == "stream")
    return run_stream_bench(o.stream, o.trained.model, o.trained.text, o.device);
  if (o.suite == "retrieval") return run_retrieval(o.retrieval, o.attention, device);
  if (o.suite == "latent") return run_latent(o.latent, o.attention, device);
  if (o.suite == "data") return run_data(o.data, o.attention.suite.timing);
  return run_attention(o.attention, device);
}

void run(const Options& o, const std::vector<std::string>& command) {
  if (o.threads > 0) at::set_num_threads(int(o.threads));
  const at::Device device(o.suite == "data" ? "cpu" : o.device);
  if (device.is_cuda() && !torch::cuda::is_available())
    throw ConfigError("--device cuda: this machine has no usable GPU; give --device cpu");
  auto provenance = make_provenance(command, bench::device_name(device), {o.attention.suite.seed});
  for (const auto& [name, version] : bench::device_versions(device))
    provenance["versions"][name] = version;
  const SaveRecords save = [&](const std::vector<ResultRecord>& records) {
    write_file_atomic(o.output, results_json(provenance, records).dump(1) + "\n");
  };
  save(run_suite(o, device, save));
  log_info("wrote ", o.output);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times operators, training steps and data preparation, in one process");
  add_options(app, options);
  return run_program(app, argc, argv, [&] {
    set_log_level(parse_log_level(options.log_level));
    run(options, {argv, argv + argc});
  });
}
