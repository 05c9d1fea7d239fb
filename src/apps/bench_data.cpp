#include "bench_data.h"

#include "bench_results.h"
#include "dsrsq/core/error.h"

namespace dsrsq {

void add_data_options(CLI::App& app, BenchDataOptions& o) {
  app.add_option("--input", o.input, "data: a file of records");
  app.add_option("--format", o.format, "data: its format, as dsrsq-data prepare calls it");
  app.add_option("--tokenizer", o.tokenizer, "data: a tokenizer.json");
  app.add_option("--python", o.python,
                 "data: results of scripts/bench_tokenizers.py, to take over and to compare with");
}

std::vector<ResultRecord> run_data(const BenchDataOptions& o, const bench::TimingOptions& timing) {
  if (o.input.empty() || o.format.empty() || o.tokenizer.empty())
    throw ConfigError(
        "--suite data: expected --input, --format and --tokenizer, got fewer; give all three");
  const auto& reader = find_reader(o.format);
  const auto tokenizer = Tokenizer::from_file(o.tokenizer);
  std::vector<ResultRecord> other;
  if (!o.python.empty()) other = read_results("--python", o.python);
  auto records = bench::run_data_suite(o.input, reader, tokenizer, timing);
  const auto ratios = bench::data_speedups(records, other);
  records.insert(records.end(), other.begin(), other.end());
  records.insert(records.end(), ratios.begin(), ratios.end());
  return records;
}

}  // namespace dsrsq
