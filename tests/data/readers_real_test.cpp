// The readers over the real files, where they are present (DSRSQ_SHARED_DATA).
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "dsrsq/core/random.h"
#include "reader_fixture.h"

namespace dsrsq {
namespace {

using testing::ReaderFixture;
using testing::shared_data;
using testing::text_at;

// Counts: reference/data.md section 3, else an independent count in Python
// (scripts/reproduce/readers.py).
struct RealFile {
  std::string name;
  std::string format;
  std::string path;
  int64_t records;
  int64_t unanswerable;
  int64_t relocated;
  int64_t answer_spans;
};

class ReadersRealTest : public ::testing::TestWithParam<RealFile>, protected ReaderFixture {};

TEST_P(ReadersRealTest, CountsAndSpans) {
  const RealFile& file = GetParam();
  const std::string path = shared_data(file.path);
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << ": set DSRSQ_SHARED_DATA";
  read(file.format, path);
  EXPECT_TRUE(report.bad.empty()) << first_bad();
  EXPECT_EQ(report.records, file.records);
  EXPECT_EQ(questions(), file.records);
  EXPECT_EQ(report.unanswerable, file.unanswerable);
  EXPECT_EQ(report.relocated, file.relocated);
  EXPECT_EQ(report.answer_spans, file.answer_spans);
  int64_t at_text = 0;
  for (const DocumentExample& example : examples) {
    for (const Question& question : example.questions) {
      for (const ByteSpan& span : question.answer_spans) {
        const std::vector<std::string>& answers = question.answers;
        at_text += std::count(answers.begin(), answers.end(), text_at(example, span));
      }
    }
  }
  EXPECT_EQ(at_text, file.answer_spans);
}

INSTANTIATE_TEST_SUITE_P(
    Files, ReadersRealTest,
    ::testing::Values(
        RealFile{"NqSimplified", "nq_simplified",
                 "nq_simplified_derived/simplified-nq-from-qed-40p.jsonl.gz", 323, 0, 0, 570},
        RealFile{"LostInTheMiddle", "lost_in_the_middle",
                 "lost_in_the_middle/nq-open-oracle.jsonl.gz", 2126, 0, 0, 3295},
        RealFile{"Qed", "qed", "qed_nq_dev/qed-dev.jsonlines", 1076, 0, 0, 1829},
        RealFile{"NqOpen", "nq_open", "natural_questions/NQ-open.dev.jsonl", 2875, 0, 0, 0},
        RealFile{"EfficientQa", "nq_open", "natural_questions/NQ-open.efficientqa.dev.1.1.jsonl",
                 1800, 0, 0, 0},
        RealFile{"TimeQaEasy", "timeqa", "timeqa/human_train.easy.json.gzip", 1171, 189, 0, 1080},
        RealFile{"TimeQaHard", "timeqa", "timeqa/human_train.hard.json.gzip", 1171, 189, 0, 1080},
        RealFile{"TimeQaAnnotated", "timeqa", "timeqa/human_annotated_train.json", 1171, 189, 0,
                 1080},
        RealFile{"CovidQa", "squad", "covid_qa/covid_qa.json", 927, 0, 156, 927},
        RealFile{"Xquad", "squad", "squad_format/xquad.en.json", 1190, 0, 0, 1190},
        RealFile{"Squad2", "squad", "squad_format/allennlp_fixtures/squad2.json", 6, 1, 0, 6},
        RealFile{"HotpotQa", "hotpotqa", "hotpotqa_sample/dev_sample.json", 50, 0, 0, 46},
        RealFile{"Leveldb", "github_code", "github_code/google__leveldb.jsonl.gz", 172, 0, 0, 33},
        RealFile{"Flask", "github_code", "github_code/pallets__flask.jsonl.gz", 401, 0, 0, 24},
        RealFile{"Fmt", "github_code", "github_code/fmtlib__fmt.jsonl.gz", 104, 0, 0, 12},
        RealFile{"Ripgrep", "github_code", "github_code/BurntSushi__ripgrep.jsonl.gz", 184, 0, 0,
                 47},
        RealFile{"FlaskCommits", "dated_entries", "github_code/pallets__flask.commits.jsonl.gz",
                 688, 0, 0, 688},
        RealFile{"LeveldbCommits", "dated_entries", "github_code/google__leveldb.commits.jsonl.gz",
                 54, 0, 0, 54},
        RealFile{"Changelogs", "dated_entries", "debian_changelogs/entries.jsonl.gz", 1873, 0, 0,
                 1873},
        RealFile{"Ruler", "ruler", "longbench_ruler/RULER/4096/niah_multikey_3.jsonl.gz", 500, 0, 0,
                 500},
        RealFile{"Quality", "quality", "quality_sample/quality_example.jsonl", 10, 0, 0, 0},
        RealFile{"KvRetrieval", "kv_retrieval", "lost_in_the_middle/kv-retrieval-75_keys.jsonl.gz",
                 500, 0, 0, 500},
        RealFile{"TydiQa", "tydiqa", "tydiqa_tiny/tiny_dev.jsonl.gz", 11, 5, 0, 5},
        RealFile{"TydiQaGold", "tydiqa", "tydiqa_tiny/small_gold_annotation.jsonl.gz", 3, 1, 0, 4}),
    [](const auto& info) { return info.param.name; });

class TimeQaFormsTest : public ::testing::Test, protected ReaderFixture {};

// The annotated articles hold the questions of the easy file. (Evidence differs: the two forms cut
// paragraphs differently.)
TEST_F(TimeQaFormsTest, BothFormsGiveTheSameDocuments) {
  const std::string flat = shared_data("timeqa/human_train.easy.json.gzip");
  const std::string annotated = shared_data("timeqa/human_annotated_train.json");
  if (!std::filesystem::exists(flat) || !std::filesystem::exists(annotated))
    GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  const auto describe = [this] {
    std::multiset<std::string> all;
    for (const DocumentExample& example : examples) {
      for (const Question& question : example.questions) {
        std::string text = std::to_string(stable_hash(example.document));
        for (const ByteSpan& span : question.answer_spans)
          text += concat("|", span.begin, "-", span.end);
        all.insert(text);
      }
    }
    return all;
  };
  read("timeqa", flat);
  const auto of_flat = describe();
  read("timeqa", annotated);
  const auto of_annotated = describe();
  std::vector<std::string> apart;
  std::set_symmetric_difference(of_flat.begin(), of_flat.end(), of_annotated.begin(),
                                of_annotated.end(), std::back_inserter(apart));
  EXPECT_TRUE(apart.empty()) << apart.size() << " differ, first " << apart[0];
}

}  // namespace
}  // namespace dsrsq
