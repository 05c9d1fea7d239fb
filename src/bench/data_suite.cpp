#include "dsrsq/bench/data_suite.h"

#include <filesystem>

#include "dsrsq/bench/case_records.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"

namespace dsrsq::bench {
namespace {

// Bytes a second, faster is larger: the quantiles of the time change places.
void add_speed(CaseRecords& records, const std::string& metric, double bytes, const Timing& time) {
  auto& record = records.add("dsrsq", metric, bytes / time.median, "bytes/s");
  record.p10 = bytes / time.p90;
  record.p90 = bytes / time.p10;
  log_info(metric, ": ", record.value / 1e6, " MB/s [", *record.p10 / 1e6, ", ", *record.p90 / 1e6,
           "]");
}

}  // namespace

std::string data_case_name(const std::string& path, const ReaderEntry& reader) {
  return concat(reader.name, ", ", std::filesystem::path(path).filename().string());
}

std::vector<ResultRecord> run_data_suite(const std::string& path, const ReaderEntry& reader,
                                         const Tokenizer& tokenizer, const TimingOptions& timing) {
  std::vector<std::string> documents;
  const auto report = reader.read(path, {}, [&](DocumentExample&& example) {
    documents.push_back(std::move(example.document));
  });
  int64_t text_bytes = 0, tokens = 0;
  for (const auto& document : documents) text_bytes += int64_t(document.size());
  const auto tokenize = [&] {
    std::vector<Tokenizer::Span> spans;
    tokens = 0;
    for (const auto& document : documents)
      tokens += int64_t(tokenizer.encode_with_spans(document, spans).size());
  };
  const auto parse = [&] { reader.read(path, {}, [](DocumentExample&&) {}); };
  const auto times =
      time_interleaved({{"parse", parse}, {"tokenize", tokenize}}, at::Device("cpu"), timing);
  CaseRecords records(data_case_name(path, reader), {{"records", double(report.records)},
                                                     {"documents", double(documents.size())},
                                                     {"tokens", double(tokens)}});
  add_speed(records, "parse", double(std::filesystem::file_size(path)), times[0]);
  add_speed(records, "tokenize", double(text_bytes), times[1]);
  return records.all;
}

std::vector<ResultRecord> data_speedups(const std::vector<ResultRecord>& own,
                                        const std::vector<ResultRecord>& other) {
  std::vector<ResultRecord> ratios;
  for (const auto& mine : own)
    for (const auto& theirs : other) {
      if (mine.metric != theirs.metric || mine.case_name != theirs.case_name) continue;
      if (mine.shape.at("tokens") != theirs.shape.at("tokens"))
        throw DataError(concat(mine.case_name, ": expected as many tokens of ", theirs.method,
                               " as here, ", int64_t(mine.shape.at("tokens")), ", got ",
                               int64_t(theirs.shape.at("tokens")),
                               "; give both the same file and tokenizer"));
      auto ratio = mine;
      ratio.metric += "_speedup";
      ratio.value = mine.value / theirs.value;
      ratio.unit = "x";
      ratio.baseline = theirs.method;
      ratio.p10.reset();
      ratio.p90.reset();
      log_info(mine.metric, ": ", ratio.value, " x ", ratio.baseline);
      ratios.push_back(ratio);
    }
  return ratios;
}

}  // namespace dsrsq::bench
