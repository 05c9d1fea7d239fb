#include "bench_attention.h"

namespace dsrsq {
void add_attention_options(CLI::App& app, BenchAttentionOptions& o) {
  auto& a = o.suite;
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
}

std::vector<bench::AttentionCase> parse_cases(const BenchAttentionOptions& o) {
  std::vector<bench::AttentionCase> cases;
  for (const auto& text : o.cases) cases.push_back(bench::parse_attention_case(text));
  return cases;
}

std::vector<ResultRecord> run_attention(const BenchAttentionOptions& o, at::Device device) {
  auto suite = o.suite;
  suite.cases = parse_cases(o);
  std::vector<ResultRecord> records;
  for (const int64_t slots : o.slots.empty() ? std::vector<int64_t>{suite.slots} : o.slots) {
    suite.slots = slots;
    const auto found = bench::run_attention_suite(suite, device);
    records.insert(records.end(), found.begin(), found.end());
  }
  return records;
}

}  // namespace dsrsq
