// A DSR that starts from a sentence encoder.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/dsrsq.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::read_batch;
using testing::tiny_dsrsq;
using testing::Tolerance;

const std::string kFolder = DSRSQ_SOURCE_DIR "/tests/retriever/encoder/gelu";  // 24 wide
const std::vector<TextQuestion> kTexts{
    {" the moon is blue. the stone is green and the sea is red? no!\nanna has a blue stone",
     "what is the moon?"},
    {" anna", "who has it?"},
    {" a stone\n\n is a   stone", "stone"}};

class DsrsqEncoder : public ::testing::Test {
 protected:
  DsrsqEncoder()
      : tokenizer_(Tokenizer::from_json(
            build_word_tokenizer({"the", "moon", "stone", "is", "blue", "green"}), "words")),
        collator_(kFolder, 24) {
    config_.dsr.encoder = kFolder;
    config_.dsr.encoder_window = 24;
    config_.dsr.width = 24;
    config_.dsr.budget = 6;
    prompt_.question = " ask {question} ?";
  }
  LanguageModel make() const {
    return LanguageModel(Transformer(testing::tiny_model(), tokenizer_.vocabulary_size(), 3),
                         std::make_shared<DsrsqMethod>(config_, testing::tiny_model(), 3), 1);
  }
  Batch batch(const std::vector<TextQuestion>& texts) const {
    auto made = collate_text(tokenizer_, prompt_, texts, &collator_);
    for (int64_t b = 0; b < made.size(); ++b)
      made.evidence[b]
          .narrow(1, 0, made.context_valid[b].sum().item<int64_t>() > 4 ? 4 : 1)
          .fill_(true);
    return made;
  }
  static Dsr dsr(LanguageModel& model) {
    Dsr found{nullptr};
    for (const auto& child : model->method().named_children())
      if (child.key() == "dsr") found = Dsr(std::dynamic_pointer_cast<DsrImpl>(child.value()));
    return found;
  }

  Tokenizer tokenizer_;
  EncoderCollator collator_;
  PromptConfig prompt_;
  DsrsqConfig config_ = tiny_dsrsq(true, false, true);
};

TEST_F(DsrsqEncoder, SwitchedOffItHasNoParameters) {
  auto names = [](LanguageModel model) {
    std::set<std::string> found;
    for (const auto& item : model->named_parameters()) found.insert(item.key());
    return found;
  };
  auto with = names(make());
  EXPECT_TRUE(with.count("method.dsr.encoder.encoder_layer_1_output_dense_weight"));
  EXPECT_FALSE(with.count("method.dsr.conv"));  // of what it replaces
  config_.dsr.encoder = "";
  auto without = names(make());
  EXPECT_TRUE(without.count("method.dsr.conv"));
  for (const auto& name : without) EXPECT_EQ(name.find("encoder"), std::string::npos) << name;
}

TEST_F(DsrsqEncoder, TokensHaveTheMeanOfTheStatesOfTheirPieces) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto input = batch(kTexts);
  auto text = dsr(model)->encode_text(input.encoder);
  SentenceEncoder encoder(kFolder);
  int64_t empty = 0, several = 0;
  for (int64_t b = 0; b < 3; ++b) {
    auto length = input.context_valid[b].sum().item<int64_t>();
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < length; ++i)
      ids.push_back(int32_t(input.context[b][i].item<int64_t>()));
    auto context = collator_.context(tokenizer_, ids);
    std::vector<at::Tensor> states;  // window by window, alone
    for (const auto& window : context.windows) {
      std::vector<int64_t> longs(window.begin(), window.end());
      auto row = at::tensor(longs, at::kLong).unsqueeze(0);
      states.push_back(encoder->states(row, at::ones_like(row, at::kBool))[0]);
    }
    size_t at = 0;
    for (int64_t i = 0; i < length; ++i) {
      auto sum = at::zeros({24});
      auto count = context.counts[size_t(i)];
      for (int64_t k = 0; k < count; ++k, ++at)
        sum += states[size_t(context.pieces[at].first)][context.pieces[at].second];
      EXPECT_TENSOR_NEAR(text.context[b][i], sum / double(std::max<int64_t>(1, count)),
                         (Tolerance{0, 1e-5}))
          << b << " token " << i;
      empty += count == 0;
      several += count > 1;
    }
    for (int64_t i = length; i < input.context.size(1); ++i)
      EXPECT_EQ(text.context[b][i].abs().max().item<double>(), 0);
  }
  EXPECT_GT(empty, 2);
  EXPECT_GT(several, 5);
}

TEST_F(DsrsqEncoder, StartsWithTheCosineOfTheEncoder) {
  torch::NoGradGuard no_grad;
  for (const int64_t width : {24, 30}) {
    config_.dsr.width = width;
    auto model = make();
    auto input = batch(kTexts);
    MethodState state;
    read_batch(model, input, {}, &state);
    auto text = dsr(model)->encode_text(input.encoder);
    auto unit = text.context / text.context.norm(2, -1, true).clamp_min(1e-8);
    auto cosine = at::matmul(unit, text.questions.squeeze(2).transpose(1, 2)).transpose(1, 2);
    auto valid = input.context_valid.unsqueeze(1);
    EXPECT_TENSOR_NEAR(state.scores.masked_select(valid) * config_.dsr.temperature,
                       cosine.masked_select(valid), (Tolerance{0, 1e-5}));
  }
  // Narrower, the rows are orthonormal and the same for both.
  config_.dsr.width = 8;
  auto model = make();
  at::Tensor question, context;
  for (const auto& item : model->named_parameters()) {
    if (item.key() == "method.dsr.question_projection") question = item.value();
    if (item.key() == "method.dsr.context_projection") context = item.value();
  }
  EXPECT_TRUE(at::equal(question, context));
  EXPECT_TENSOR_NEAR(at::matmul(question, question.t()), at::eye(8), (Tolerance{0, 1e-5}));
}

TEST_F(DsrsqEncoder, ASequenceDoesNotDependOnItsBatch) {
  torch::NoGradGuard no_grad;
  auto model = make();
  MethodState together, alone;
  read_batch(model, batch(kTexts), {}, &together);
  for (size_t b = 0; b < kTexts.size(); ++b) {
    auto one = batch({kTexts[b]});
    read_batch(model, one, {}, &alone);
    auto length = one.context.size(1);
    EXPECT_TENSOR_NEAR(together.scores[int64_t(b)].narrow(-1, 0, length), alone.scores[0],
                       (Tolerance{0, 1e-4}));
    EXPECT_FALSE(alone.context_inputs.defined());  // the reader gathers embeddings
  }
}

TEST_F(DsrsqEncoder, StandsStillUnlessItLearns) {
  for (const bool learns : {false, true}) {
    config_.dsr.encoder_learns = learns;
    auto model = make();
    auto input = batch(kTexts);
    PassOptions options;
    options.training = true;
    MethodState state;
    read_batch(model, input, options, &state);
    model->method().losses(input, state).at("retrieval").sum.backward();
    int64_t with_gradient = 0, projections = 0;
    for (const auto& item : model->named_parameters()) {
      if (!item.value().grad().defined()) continue;
      auto moves = item.value().grad().abs().max().item<double>() > 0;
      if (item.key().rfind("method.dsr.encoder.", 0) == 0) with_gradient += moves;
      if (item.key().find("_projection") != std::string::npos) projections += moves;
      EXPECT_FALSE(item.key().rfind("backbone.", 0) == 0 && moves) << item.key();
    }
    EXPECT_EQ(projections, 2);
    // Of 2 layers x 16 tensors and 5 of the embeddings; key biases move no softmax, up to rounding.
    EXPECT_TRUE(learns ? with_gradient >= 35 : with_gradient == 0) << with_gradient;
  }
}

TEST_F(DsrsqEncoder, APolicySeesWhatTheRetrieverScores) {
  torch::NoGradGuard no_grad;
  auto model = make();
  PassOptions options;
  options.observe = true;
  MethodState state;
  read_batch(model, batch(kTexts), options, &state);
  EXPECT_EQ(state.policy_input.context.size(-1), 24);
  auto rollouts = model->method().policy()->sample(state.policy_input, 2, 0, 1);
  EXPECT_EQ(rollouts.selected.index.size(0), 6);
  auto evaluated = model->method().policy()->evaluate(state.policy_input, rollouts);
  EXPECT_TRUE(evaluated.pick_log_prob.isfinite().all().item<bool>());
}

TEST_F(DsrsqEncoder, AWindowLongerThanItsPositionsIsAnError) {
  config_.dsr.encoder_window = 49;
  try {
    make();
    ADD_FAILURE();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("dsr.encoder_window: expected at most 48"));
  }
}

}  // namespace
}  // namespace dsrsq
