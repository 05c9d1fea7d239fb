// Runs whose retriever starts from a sentence encoder: what learns, and resuming.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>

#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::tiny_config;
using dsrsq::testing::TinyFacts;

class EncoderTraining : public ::testing::Test {
 protected:
  EncoderTraining() : config_(tiny_config(facts_)) {
    config_.dsrsq.dsr.encoder = DSRSQ_SOURCE_DIR "/tests/retriever/encoder/gelu";
    config_.dsrsq.dsr.encoder_window = 48;
    config_.dsrsq.dsr.width = 24;
    config_.train.checkpoint_every = 2;
    config_.stages[0].steps = 4;
  }
  // Trained from `from`, where given, to the end; the weights of the last step.
  NamedTensors train(const std::string& name, const Checkpoint* from = nullptr) {
    auto folder = facts_.folder(name);
    std::filesystem::create_directories(folder);
    at::set_num_threads(1);
    auto model = make_model(config_, facts_.tokenizer());
    Trainer trainer(config_, model, facts_.tokenizer(), folder);
    if (from != nullptr) trainer.resume(*from);
    trainer.run();
    return CheckpointFolder::read_model(find_checkpoint(folder, false));
  }
  Checkpoint checkpoint(const std::string& name, int64_t step) {
    for (const auto& one : CheckpointFolder(facts_.folder(name)).list())
      if (one.step == step) return one;
    throw std::runtime_error(name);
  }
  // Tensors of the encoder that differ from the folder's.
  int64_t moved(const NamedTensors& trained) {
    int64_t count = 0;
    auto start = make_model(config_, facts_.tokenizer());
    for (const auto& [name, tensor] : module_tensors(*start))
      if (parameter_group(name) == "encoder") count += !at::equal(tensor, trained.at(name));
    return count;
  }

  TinyFacts facts_;
  RunConfig config_;
};

TEST_F(EncoderTraining, ResumesBitByBit) {
  config_.dsrsq.dsr.encoder_learns = true;
  auto whole = train("whole");
  EXPECT_GT(moved(whole), 30);
  auto from = checkpoint("whole", 2);
  auto resumed = train("resumed", &from);
  ASSERT_EQ(whole.size(), resumed.size());
  for (const auto& [name, tensor] : whole) EXPECT_TRUE(at::equal(tensor, resumed.at(name))) << name;
}

TEST_F(EncoderTraining, StandsStillByDefault) {
  auto trained = train("frozen");
  EXPECT_EQ(moved(trained), 0);
  auto start = make_model(config_, facts_.tokenizer());
  const std::string projection = "method.dsr.question_projection";
  EXPECT_FALSE(at::equal(module_tensors(*start).at(projection), trained.at(projection)));
}

TEST_F(EncoderTraining, AStageCanFreezeIt) {
  config_.dsrsq.dsr.encoder_learns = true;
  config_.stages[0].frozen = {"encoder"};
  EXPECT_EQ(moved(train("stage")), 0);
  EXPECT_EQ(parameter_group("method.dsr.encoder.embeddings_LayerNorm_bias"), "encoder");
  EXPECT_EQ(parameter_group("method.dsr.context_projection"), "retriever");
}

}  // namespace
}  // namespace dsrsq
