#include "dsrsq/bench/data_suite.h"

#include <gtest/gtest.h>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/tiny_run.h"

namespace dsrsq::bench {
namespace {

TEST(BenchData, CountsWhatItReadsAndCompares) {
  const testing::TemporaryFolder folder;
  const auto path = folder / "questions.jsonl";
  write_file_atomic(path,
                    "{\"question\": \"q\", \"context\": \"aa bb\", \"answers\": [\"aa\"]}\n"
                    "{\"question\": \"r\", \"context\": \"aa bb\", \"answers\": [\"bb\"]}\n"
                    "{\"question\": \"q\", \"context\": \"cc\", \"answers\": []}\n");
  const auto tokenizer =
      Tokenizer::from_json(build_word_tokenizer({"aa", "bb", "cc"}, {}), "tokenizer");
  TimingOptions timing;
  timing.minimum_rounds = timing.maximum_rounds = 1;
  const auto& reader = find_reader("jsonl");
  const auto records = run_data_suite(path, reader, tokenizer, timing);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].case_name, "jsonl, questions.jsonl");
  EXPECT_EQ(records[0].metric, "parse");
  EXPECT_EQ(records[1].metric, "tokenize");
  EXPECT_EQ(records[1].shape.at("records"), 3);
  EXPECT_EQ(records[1].shape.at("documents"), 2);
  EXPECT_EQ(records[1].shape.at("tokens"),
            double(tokenizer.encode("aa bb").size() + tokenizer.encode("cc").size()));
  for (const auto& record : records) {
    EXPECT_GT(record.value, 0);
    EXPECT_LE(*record.p10, record.value);
    EXPECT_GE(*record.p90, record.value);
  }

  auto other = records;
  for (auto& record : other) {
    record.method = "python";
    record.value /= 4;
  }
  const auto ratios = data_speedups(records, other);
  ASSERT_EQ(ratios.size(), 2u);
  EXPECT_EQ(ratios[1].metric, "tokenize_speedup");
  EXPECT_EQ(ratios[1].baseline, "python");
  EXPECT_DOUBLE_EQ(ratios[1].value, 4);

  other[1].shape["tokens"] += 1;
  EXPECT_THROW(data_speedups(records, other), DataError);
}

}  // namespace
}  // namespace dsrsq::bench
