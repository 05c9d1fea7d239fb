// The readers over the real files, where they are present (DSRSQ_SHARED_DATA).
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
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
  std::string companion = {};
};

class ReadersRealTest : public ::testing::TestWithParam<RealFile>, protected ReaderFixture {};

TEST_P(ReadersRealTest, CountsAndSpans) {
  const RealFile& file = GetParam();
  const std::string path = shared_data(file.path);
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << ": set DSRSQ_SHARED_DATA";
  if (!file.companion.empty()) companion = shared_data(file.companion);
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
        RealFile{"CnnCsv", "cnn_dailymail", "cnn_dailymail/cnn_dailymail_validation_subset.csv",
                 804, 0, 0, 0},
        RealFile{"CnnDated", "cnn_dailymail", "cnn_dailymail/cnn_dailymail_validation_subset.csv",
                 1608, 0, 0, 804, "cnn_dailymail/dates.tsv"},
        RealFile{"CnnStories", "cnn_dailymail", "cnn_dailymail/cnn/stories", 20, 0, 0, 0},
        RealFile{"PubMedQa", "pubmedqa", "pubmedqa/ori_pqal.json", 500, 0, 0, 0},
        RealFile{"SciTldrTrain", "scitldr", "scitldr_a/train.jsonl", 1992, 0, 0, 0},
        RealFile{"SciTldrDev", "scitldr", "scitldr_a/dev.jsonl", 619, 0, 0, 0},
        RealFile{"S2orc2019", "s2orc", "s2orc_samples/s2orc/20190928/10042064.json", 1, 0, 0, 0},
        RealFile{"S2orc2020", "s2orc", "s2orc_samples/s2orc/20200705/18980463.json", 1, 0, 0, 0},
        RealFile{"S2orc2021", "s2orc",
                 "s2orc_samples/s2orc/20210101/24e6b80e338a4e543de6b49cada07156c9149d22.json", 1, 0,
                 0, 0},
        RealFile{"Doc2Json", "s2orc", "s2orc_samples/doc2json/N18-3011.json", 1, 0, 0, 0},
        RealFile{"Leveldb", "github_code", "github_code/google__leveldb.jsonl.gz", 172, 0, 0, 33},
        RealFile{"Flask", "github_code", "github_code/pallets__flask.jsonl.gz", 401, 0, 0, 24},
        RealFile{"Fmt", "github_code", "github_code/fmtlib__fmt.jsonl.gz", 104, 0, 0, 12},
        RealFile{"Ripgrep", "github_code", "github_code/BurntSushi__ripgrep.jsonl.gz", 184, 0, 0,
                 47},
        RealFile{"WikiText", "text", "wikitext2/valid.txt", 60, 0, 0, 0},
        RealFile{"FmtText", "text", "github_code/fmtlib__fmt.jsonl.gz", 86, 0, 0, 0},
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

class RealPapersAndNewsTest : public ::testing::Test, protected ReaderFixture {
 protected:
  // Of DSRSQ_SHARED_DATA; a test skips without it.
  bool read_shared(const std::string& format, const std::string& file) {
    if (!std::filesystem::exists(shared_data(file))) return false;
    read(format, shared_data(file));
    return true;
  }
};

TEST_F(RealPapersAndNewsTest, NewsWithDaysIsAStream) {
  companion = shared_data("cnn_dailymail/dates.tsv");
  if (!read_shared("cnn_dailymail", "cnn_dailymail/cnn_dailymail_validation_subset.csv"))
    GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  std::set<std::string> days;
  std::string before;
  for (const DocumentExample& example : examples) {
    const Question& question = example.questions.at(0);
    const std::string key = question.timestamp + question.id;
    EXPECT_LT(before, key);
    before = key;
    days.insert(question.timestamp);
    EXPECT_EQ(example.document.rfind(concat("[", question.timestamp, "]\n"), 0), 0u);
  }
  EXPECT_EQ(days.size(), 31u);
  EXPECT_EQ(*days.begin(), "2014-12-18");
  EXPECT_EQ(*days.rbegin(), "2015-03-23");
}

TEST_F(RealPapersAndNewsTest, DecisionsAndYearsOfPubMedQa) {
  if (!read_shared("pubmedqa", "pubmedqa/ori_pqal.json"))
    GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  std::map<std::string, int64_t> decisions;
  int64_t undated = 0;
  for (const DocumentExample& example : examples) {
    ++decisions[example.questions.at(0).answers.at(0)];
    undated += example.questions[0].timestamp.empty();
  }
  EXPECT_EQ(decisions, (std::map<std::string, int64_t>{{"yes", 276}, {"no", 169}, {"maybe", 55}}));
  EXPECT_EQ(undated, 36);
}

TEST_F(RealPapersAndNewsTest, SciTldrKeepsAllTargetsAndTheLabelledSentence) {
  if (!read_shared("scitldr", "scitldr_a/dev.jsonl"))
    GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  size_t targets = 0;
  for (const DocumentExample& example : examples) {
    targets += example.questions.at(0).answers.size();
    EXPECT_EQ(example.questions[0].evidence.size(), 1u);
  }
  EXPECT_EQ(targets, 1453u);
}

TEST_F(RealPapersAndNewsTest, S2orcRowsWithoutAnAbstractAreCounted) {
  if (!read_shared("s2orc", "s2orc_samples/metadata/sample.jsonl"))
    GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  EXPECT_EQ(report.records, 488);
  EXPECT_EQ(report.bad.size(), 512u);
  read_shared("s2orc",
              "s2orc_samples/s2orc/20210101/f2235cd28c171f9f3b6a8bcebe246159c464980c.json");
  EXPECT_TRUE(examples.empty());
  EXPECT_NE(first_bad().find("no abstract"), std::string::npos) << first_bad();
}

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
