// dsrsq-bench: operators against dense attention, timed in one process.
#include <torch/torch.h>

#include <nlohmann/json.hpp>

#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/bench/device.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "run_program.h"

namespace {

using namespace dsrsq;

struct Options {
  std::string suite = "attention", device = "cuda", output, log_level = "info";
  std::vector<std::string> cases = {"16384:128", "65536:256", "131072:384"};
  bench::AttentionSuiteOptions attention;
  int64_t threads = 0;
};

void add_options(CLI::App& app, Options& o) {
  auto& a = o.attention;
  app.add_option("--suite", o.suite, "attention: over clusters, whole operator, against dense")
      ->check(CLI::IsMember({"attention"}))
      ->capture_default_str();
  app.add_option("--device", o.device, "cpu, cuda, cuda:N")->capture_default_str();
  app.add_option("--output", o.output, "results.json to write")->required();
  app.add_option("--cases", o.cases,
                 "TOKENS:CLUSTERS,...; also TOKENS:CLUSTERS:TYPE, fp32 (a CPU alone) or bf16")
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
  app.add_option("--slots", a.slots, "clusters of a query")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
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
  app.add_option("--threads", o.threads, "of a CPU; 0: all");
  app.add_option("--log-level", o.log_level, "debug, info, warning, error")->capture_default_str();
}

// "16384:128", "8192:32:bf16"
bench::AttentionCase parse_case(const std::string& text) {
  const auto colon = text.find(':'), second_colon = text.find(':', colon + 1);
  const auto end = std::min(second_colon, text.size());
  size_t first = 0, second = 0;
  try {
    bench::AttentionCase size{std::stoll(text, &first), std::stoll(text.substr(colon + 1), &second),
                              end < text.size() ? text.substr(end + 1) : ""};
    if (first == colon && colon + 1 + second == end && size.tokens > 0 && size.clusters > 0)
      return size;
  } catch (const std::logic_error&) {
  }
  throw ConfigError(
      concat("--cases: expected TOKENS:CLUSTERS, as 16384:128, got ", quote(text), "; change it"));
}

void run(Options& o, const std::vector<std::string>& command) {
  if (o.threads > 0) at::set_num_threads(int(o.threads));
  const at::Device device(o.device);
  if (device.is_cuda() && !torch::cuda::is_available())
    throw ConfigError("--device cuda: this machine has no usable GPU; give --device cpu");
  for (const auto& text : o.cases) o.attention.cases.push_back(parse_case(text));
  const auto records = bench::run_attention_suite(o.attention, device);
  auto provenance = make_provenance(command, bench::device_name(device), {o.attention.seed});
  for (const auto& [name, version] : bench::device_versions(device))
    provenance["versions"][name] = version;
  write_file_atomic(o.output, results_json(provenance, records).dump(1) + "\n");
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
