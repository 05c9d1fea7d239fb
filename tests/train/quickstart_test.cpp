// configs/quickstart.yaml is sized so that all three parts do something: what that means is
// asserted here on its own kind of data, with untrained weights (what they do well is the
// quickstart's table).
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/batch/loader.h"
#include "dsrsq/data/synthetic.h"
#include "dsrsq/eval/evaluator.h"
#include "dsrsq/registry.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

class Quickstart : public ::testing::Test {
 protected:
  Quickstart()
      : tokenizer_(Tokenizer::from_json(
            build_word_tokenizer(synthetic_words(task_), synthetic_pieces()), "test")) {
    std::vector<DocumentExample> documents;
    for (int64_t i = 0; i < 16; ++i) documents.push_back(synthetic_document(task_, "test", i));
    testing::write_store(path(), tokenizer_, documents, std::vector<uint8_t>(documents.size(), 2));
    config_ = load_run_config({DSRSQ_SOURCE_DIR "/configs/quickstart.yaml", {}, {}});
    config_.data.train = path();
    config_.eval.latency_questions = 0;
    config_.eval.batch_size = 8;
  }
  std::string path() const { return folder_ / "facts.h5"; }
  Loader loader(bool with_answers) const {
    LoaderOptions options;
    options.split = "test";
    options.shuffle = false;
    options.with_answers = with_answers;
    return Loader(path(), tokenizer_, config_.prompt, options);
  }

  testing::TemporaryFolder folder_;
  SyntheticConfig task_;
  Tokenizer tokenizer_;
  RunConfig config_;
};

TEST_F(Quickstart, AllPartsAreActive) {
  auto model = make_model(config_, tokenizer_);
  PassOptions before, now;
  before.sqa = before.rckv = false;
  ASSERT_GT(model->method().calibration_sequences(before, now), 0);
  model->method().begin_calibration();
  auto calibrating = before;
  calibrating.calibrating = true;
  {
    at::NoGradGuard no_grad;
    auto batch = loader(true).pass_batch(0);
    auto state = model->method().make_state(batch, calibrating);
    model->read(batch, state);
  }
  model->method().finish_calibration();

  auto result = evaluate(model, loader(false), tokenizer_, config_.eval, PassOptions{},
                         FlopSettings{}, "test");
  ASSERT_EQ(result.questions.size(), 16u);
  for (const auto& question : result.questions)
    EXPECT_LE(question.selected_tokens * 8, question.context_tokens);
  EXPECT_GE(result.sparse_share, 0.3);
  EXPECT_LT(result.density, 1.0);
  EXPECT_TRUE(result.has_latents);
  EXPECT_GT(result.latent_mass, 0.05);
}

TEST_F(Quickstart, TheBufferIsSmallerThanWhatItIsOffered) {
  auto model = make_model(config_, tokenizer_);
  PassOptions options;
  options.sqa = false;  // the codebook of an untrained model is empty
  at::NoGradGuard no_grad;
  auto batch = loader(true).pass_batch(0);
  auto state = model->method().make_state(batch, options);
  model->read(batch, state);
  const auto& layer = state.layers[0];
  auto sequence = config_.model.sinks + state.selected.slots() + batch.tail.size(1);
  auto offered = sequence - layer.entries();
  EXPECT_EQ(layer.latents.keys.size(1), config_.dsrsq.rckv.buffer_length);
  EXPECT_GT(offered, config_.dsrsq.rckv.buffer_length);
}

}  // namespace
}  // namespace dsrsq
