#include "bench_train.h"

#include "bench_results.h"

namespace dsrsq {
void add_train_options(CLI::App& app, BenchTrainOptions& o) {
  auto& t = o.suite;
  app.add_option("--train-cases", o.cases,
                 "train: BATCHxTOKENS:CLUSTERS,...; CLUSTERS auto as in --cases")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--layers", t.layers, "train, generate: of the model, of width 64 times --heads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--vocabulary", t.vocabulary, "train, generate: rows of the embedding")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--activation-checkpointing", t.activation_checkpointing, "train");
  app.add_option("--minimum-rounds", t.timing.minimum_rounds, "train: steps that are timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--pytorch", o.pytorch,
                 "train: results of scripts/bench_pytorch.py, to take over and to compare with");
}

std::vector<ResultRecord> run_train(const BenchTrainOptions& o,
                                    const BenchAttentionOptions& attention, at::Device device,
                                    const SaveRecords& save) {
  const auto& a = attention.suite;
  auto suite = o.suite;
  std::vector<bench::TrainCase> cases;
  for (const auto& text : o.cases) cases.push_back(bench::parse_train_case(text));
  suite.heads = a.heads;
  suite.width = a.heads * a.width;
  suite.mlp_width = suite.width * 8 / 3;
  suite.slots = attention.slots.empty() ? a.slots : attention.slots.front();
  suite.window = a.window;
  suite.seed = a.seed;
  suite.kernels = a.kernels;
  suite.timing.seconds = a.timing.seconds;
  std::vector<ResultRecord> other;  // read first: a wrong file costs no run
  if (!o.pytorch.empty()) other = read_results("--pytorch", o.pytorch);
  auto records = other;
  for (const auto& size : cases) {
    suite.cases = {size};
    const auto own = bench::run_train_suite(suite, device);
    const auto ratios = bench::step_speedups(own, other);
    records.insert(records.end(), own.begin(), own.end());
    records.insert(records.end(), ratios.begin(), ratios.end());
    save(records);
  }
  return records;
}

}  // namespace dsrsq
