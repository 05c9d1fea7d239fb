// dsrsq-bench: operators against dense attention, timed in one process, and what they lose.
#include <torch/torch.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "bench_trained.h"
#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/bench/device.h"
#include "dsrsq/bench/train_suite.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/core/logging.h"
#include "run_program.h"

namespace {

using namespace dsrsq;

struct Options {
  std::string suite = "attention", device = "cuda", output, log_level = "info";
  std::vector<std::string> cases = {"16384:128", "65536:256", "131072:384"};
  bench::AttentionSuiteOptions attention;
  std::vector<int64_t> slots;
  std::string model, text;  // of the suite `trained`
  bench::TrainedSuiteOptions trained;
  bench::TrainSuiteOptions train;
  std::vector<std::string> train_cases = {"32x1024:128", "4x8192:128", "1x32768:192",
                                          "1x131072:384"};
  std::string pytorch;
  int64_t threads = 0;
};

void add_train_options(CLI::App& app, Options& o) {
  auto& t = o.train;
  app.add_option("--train-cases", o.train_cases,
                 "train: BATCHxTOKENS:CLUSTERS,...; CLUSTERS auto as in --cases")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--layers", t.layers, "train: of the model, of width 64 times --heads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--vocabulary", t.vocabulary, "train: rows of the embedding")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--activation-checkpointing", t.activation_checkpointing, "train");
  app.add_option("--minimum-rounds", t.timing.minimum_rounds, "train: steps that are timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--pytorch", o.pytorch,
                 "train: results of scripts/bench_pytorch.py, to take over and to compare with");
}

void add_options(CLI::App& app, Options& o) {
  auto& a = o.attention;
  app.add_option("--suite", o.suite,
                 "attention: over clusters, whole operator, against dense; trained: what it loses "
                 "and saves on a trained model's keys; train: a training step")
      ->check(CLI::IsMember({"attention", "trained", "train"}))
      ->capture_default_str();
  app.add_option("--device", o.device, "cpu, cuda, cuda:N")->capture_default_str();
  app.add_option("--output", o.output, "results.json to write")->required();
  app.add_option(
         "--cases", o.cases,
         "TOKENS:CLUSTERS,...; also TOKENS:CLUSTERS:TYPE, fp32 (a CPU alone) or bf16; CLUSTERS "
         "auto: what sqa.clusters: auto gives for so many tokens")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--routing", a.routings, "balanced, skewed")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--batch", a.batch, "")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--heads", a.heads, "query heads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--kv-heads", a.kv_heads, "key-value heads")->capture_default_str();
  app.add_option("--width", a.width, "of a head")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--slots", o.slots, "clusters of a query; default 8, of trained 2,4,8,16")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--window", a.window, "newest tokens that a query always sees")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--sinks", a.sinks, "first tokens that every query sees")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--seed", a.seed, "of the data")->capture_default_str();
  app.add_option("--dense-up-to", a.dense_up_to, "longer cases run without dense attention")
      ->capture_default_str();
  app.add_option("--seconds", a.timing.seconds, "of measuring, a case and pass")
      ->capture_default_str();
  app.add_flag("--kernels", a.kernels, "also the time of each kernel (or operator, on a CPU)");
  app.add_flag("--aten", a.aten, "also attention over clusters by plain tensor operations");
  app.add_flag("!--no-moba", a.moba, "on a GPU, without blocks of neighbouring keys (MoBA)");
  app.add_option("--model", o.model, "trained: a run, or a Hugging Face folder");
  app.add_option("--text", o.text, "trained: what it reads");
  app.add_option("--sequences", o.trained.sequences, "trained: read; as many feed the codebook")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--layer", o.trained.timed_layer, "trained: whose keys are timed; -1: the middle")
      ->capture_default_str();
  add_train_options(app, o);
  app.add_option("--threads", o.threads, "of a CPU; 0: all");
  app.add_option("--log-level", o.log_level, "debug, info, warning, error")->capture_default_str();
}

std::vector<ResultRecord> read_results(const std::string& path) {
  try {
    return parse_results(parse_json(read_file(path)), path);
  } catch (const JsonError& error) {
    throw DataError(concat("--pytorch ", path, ": expected results in JSON: ", error.what()));
  }
}

using Save = std::function<void(const std::vector<ResultRecord>&)>;

// Saves after each case: one that runs out of time or memory takes no other with it.
std::vector<ResultRecord> run_train(Options& o, at::Device device, const Save& save) {
  auto& t = o.train;
  std::vector<bench::TrainCase> cases;
  for (const auto& text : o.train_cases) cases.push_back(bench::parse_train_case(text));
  t.heads = o.attention.heads;
  t.width = t.heads * o.attention.width;
  t.mlp_width = t.width * 8 / 3;
  t.slots = o.slots.empty() ? o.attention.slots : o.slots.front();
  t.window = o.attention.window;
  t.seed = o.attention.seed;
  t.kernels = o.attention.kernels;
  t.timing.seconds = o.attention.timing.seconds;
  std::vector<ResultRecord> other;  // read first: a wrong file costs no run
  if (!o.pytorch.empty()) other = read_results(o.pytorch);
  auto records = other;
  for (const auto& size : cases) {
    t.cases = {size};
    const auto own = bench::run_train_suite(t, device);
    const auto ratios = bench::step_speedups(own, other);
    records.insert(records.end(), own.begin(), own.end());
    records.insert(records.end(), ratios.begin(), ratios.end());
    save(records);
  }
  return records;
}

std::vector<ResultRecord> run_suite(Options& o, const at::Device& device, const Save& save) {
  if (o.suite == "train") return run_train(o, device, save);
  std::vector<ResultRecord> records;
  auto& a = o.attention;
  for (const auto& text : o.cases) a.cases.push_back(bench::parse_attention_case(text));
  if (o.suite == "attention") {
    for (const int64_t slots : o.slots.empty() ? std::vector<int64_t>{a.slots} : o.slots) {
      a.slots = slots;
      const auto found = bench::run_attention_suite(a, device);
      records.insert(records.end(), found.begin(), found.end());
    }
    return records;
  }
  auto& t = o.trained;
  if (!o.slots.empty()) t.slots = o.slots;
  t.window = a.window;
  t.seed = a.seed;
  t.timing = a.timing;
  for (const auto& size : a.cases) {
    t.tokens = size.tokens;
    t.clusters = size.clusters;
    const auto found = run_trained_suite_on(o.model, o.text, o.device, t);
    records.insert(records.end(), found.begin(), found.end());
  }
  return records;
}

void run(Options& o, const std::vector<std::string>& command) {
  if (o.threads > 0) at::set_num_threads(int(o.threads));
  const at::Device device(o.device);
  if (device.is_cuda() && !torch::cuda::is_available())
    throw ConfigError("--device cuda: this machine has no usable GPU; give --device cpu");
  auto provenance = make_provenance(command, bench::device_name(device), {o.attention.seed});
  for (const auto& [name, version] : bench::device_versions(device))
    provenance["versions"][name] = version;
  const Save save = [&](const std::vector<ResultRecord>& records) {
    write_file_atomic(o.output, results_json(provenance, records).dump(1) + "\n");
  };
  save(run_suite(o, device, save));
  log_info("wrote ", o.output);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times operators against dense attention, in one process");
  add_options(app, options);
  return run_program(app, argc, argv, [&] {
    set_log_level(parse_log_level(options.log_level));
    run(options, {argv, argv + argc});
  });
}
