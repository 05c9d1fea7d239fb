// Texts without questions train the whole model: every part, loss on all tokens (D2).
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dsrsq/core/files.h"
#include "dsrsq/data/synthetic.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::TemporaryFolder;
using dsrsq::testing::tiny_config;
using dsrsq::testing::tiny_stage;
using dsrsq::testing::TinyFacts;
using dsrsq::testing::write_store;

// Texts that repeat a cycle of 7 words; short ones, whose first chunks have no candidates, too.
class TextTrainingTest : public ::testing::Test {
 protected:
  TextTrainingTest() {
    const auto words = synthetic_words(SyntheticConfig{});
    std::vector<DocumentExample> texts;
    std::vector<uint8_t> splits;
    for (size_t i = 0; i < 12; ++i) {
      DocumentExample text;
      for (size_t t = 0; t < 30 + 20 * (i % 4); ++t)
        text.document += " " + words[(i + t % 7) % words.size()];
      text.questions.emplace_back();
      texts.push_back(text);
      splits.push_back(i < 10 ? 0 : 1);
    }
    const auto json = build_word_tokenizer(words, synthetic_pieces());
    write_file_atomic(folder_ / "tokenizer.json", json);
    const auto tokenizer = Tokenizer::from_file(folder_ / "tokenizer.json");
    write_store(folder_ / "texts.h5", tokenizer, texts, splits);
    config_ = tiny_config(facts_);
    config_.data.tokenizer = folder_ / "tokenizer.json";
    config_.data.train = folder_ / "texts.h5";
    config_.data.chunk_tokens = 8;
    config_.data.maximum_context = 40;
    config_.loss.task_tokens = "all";
    config_.loss.retrieval_target = "attention";
    config_.dsrsq.rckv.source = "selected";
    config_.dsrsq.dsr.budget = 24;
    config_.dsrsq.dsr.span = 4;
  }

  // Lines of metrics.jsonl with `key`, in order.
  std::vector<double> train(const std::string& run, const std::string& key) {
    const auto tokenizer = Tokenizer::from_file(config_.data.tokenizer);
    std::filesystem::create_directories(folder_ / run);
    auto model = make_model(config_, tokenizer);
    Trainer trainer(config_, model, tokenizer, folder_ / run);
    trainer.run();
    std::istringstream lines(read_file((folder_ / run) + "/metrics.jsonl"));
    std::vector<double> values;
    for (std::string line; std::getline(lines, line);) {
      auto entry = nlohmann::json::parse(line);
      if (entry.contains(key)) values.push_back(entry[key].get<double>());
    }
    return values;
  }

  TemporaryFolder folder_;
  TinyFacts facts_;
  RunConfig config_;
};

TEST_F(TextTrainingTest, EveryPartOnTheLossOfUnseenChunksFalls) {
  config_.stages = {tiny_stage("dense", 20, false, false), tiny_stage("joint", 40, true, true)};
  config_.stages[0].selection = "all";
  config_.stages[0].retrieval_negatives = "batch";
  config_.train.evaluate_every = 20;
  auto task = train("all", "train/task");
  ASSERT_EQ(task.size(), 60u);
  for (auto value : task) ASSERT_TRUE(std::isfinite(value));
  EXPECT_LT(task.back(), .7 * task.front());
  auto held_out = train("again", "validation/loss");
  ASSERT_GE(held_out.size(), 3u);
  EXPECT_LT(held_out.back(), .8 * held_out.front());
}

// The chunk is predicted with either loss; all tokens add a term of their own.
TEST_F(TextTrainingTest, AllTokensAreInTheLossWhereTheConfigSaysSo) {
  config_.stages = {tiny_stage("joint", 2, true, true)};
  EXPECT_EQ(train("all", "train/language").size(), 2u);
  config_.loss.task_tokens = "answer";
  EXPECT_EQ(train("answer", "train/task").size(), 2u);
  std::istringstream lines(read_file((folder_ / "answer") + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    EXPECT_FALSE(nlohmann::json::parse(line).contains("train/language"));
}

}  // namespace
}  // namespace dsrsq
