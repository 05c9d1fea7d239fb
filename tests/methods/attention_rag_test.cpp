#include "dsrsq/methods/attention_rag.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/methods/standard.h"
#include "methods/tiny_words.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ::testing::ElementsAreArray;

TEST(AnswerPrefix, BeginsTheAnswer) {
  EXPECT_EQ(answer_prefix("who wrote the iliad"), "The person who wrote the iliad is");
  EXPECT_EQ(answer_prefix("When did the war end?"), "The time when did the war end is");
  EXPECT_EQ(answer_prefix(" where is Daniel ? "), "The place where is Daniel is");
  EXPECT_EQ(answer_prefix("how many rings has Saturn"), "The number of rings has Saturn is");
  EXPECT_EQ(answer_prefix("which river is longest"), "The river is longest is");
  EXPECT_EQ(answer_prefix("What is the capital of France?"), "The capital of France is");
  EXPECT_EQ(answer_prefix("what was her name"), "Her name was");
  EXPECT_EQ(answer_prefix("what colour has the sky"), "The answer to what colour has the sky is");
  EXPECT_EQ(answer_prefix("is the sky blue?"), "");
  EXPECT_EQ(answer_prefix("who"), "");
  EXPECT_EQ(answer_prefix(""), "");
}

TEST(Sentences, EndAtStopsAndLineBreaks) {
  const std::string text = "Ab. C 2.5 d? E\n\nF!";
  std::vector<Tokenizer::Span> spans;  // one token a byte
  for (int64_t i = 0; i < int64_t(text.size()); ++i) spans.push_back({i, i + 1});
  auto found = sentences(text, spans);
  ASSERT_EQ(found.size(), text.size());
  // White space belongs to the sentence before it; 2.5 is one number.
  for (size_t i = 0; i < text.size(); ++i) {
    auto wanted = i < 4 ? 0 : i < 13 ? 1 : i < 16 ? 2 : 3;
    EXPECT_EQ(found[i], wanted) << i << " '" << text[i] << "'";
  }
}

// Attention of the last row, from the n x n formula in double.
struct LastRow : Method {
  using Method::Method;
  std::string method_name() const override { return "last_row"; }
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    auto q = input.rotated(input.q).to(at::kDouble), k = input.rotated(input.k).to(at::kDouble);
    k = k.repeat_interleave(q.size(1) / k.size(1), 1);
    auto logits = at::matmul(q.narrow(2, q.size(2) - 1, 1), k.transpose(2, 3));
    auto row = at::softmax(logits / std::sqrt(double(q.size(3))), -1).sum(1)[0][0];
    sum = sum.defined() ? sum + row : row;
    return Method::attend(input, state);
  }
  at::Tensor sum;  // [T]
};

struct Exposed : AttentionRagMethod {
  using AttentionRagMethod::AttentionRagMethod;
  using AttentionRagMethod::Reading;
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override {
    view = model;
    return AttentionRagMethod::select(batch, model, state);
  }
  Reading read(const std::vector<int32_t>& context, const std::vector<int32_t>& question,
               const std::string& prefix) {
    return read_chunks({{context, question, prefix}}, view, at::kCPU).front();
  }
  LanguageModelView view;
};

class AttentionRag : public ::testing::Test {
 protected:
  AttentionRag() {
    auto shape = testing::tiny_model();
    AttentionRagConfig config;
    config.chunk = 7;
    config.tokens = 2;
    method_ = std::make_shared<Exposed>(std::make_shared<StandardMethod>(StandardConfig{}, shape),
                                        config, PromptConfig{}, testing::tiny_words());
    model_ = testing::tiny_language_model(shape, method_);
  }
  std::shared_ptr<Exposed> method_;
  LanguageModel model_{nullptr};
};

// Without the last token of a sentence.
std::vector<int32_t> cut(std::vector<int32_t> tokens, int64_t sentence) {
  tokens.erase(std::find(tokens.begin(), tokens.end(), int32_t(3 * sentence + 2)));
  return tokens;
}

std::vector<int32_t> ids(const at::Tensor& row) {
  std::vector<int32_t> list;
  for (int64_t i = 0; i < row.numel(); ++i) list.push_back(int32_t(row[i].item<int64_t>()));
  return list;
}

TEST_F(AttentionRag, ReadsTheAnchorsRowOfEveryChunk) {
  torch::NoGradGuard no_grad;
  auto batch = testing::tiny_batch({{.context = 17, .sample = 1}});
  testing::read_batch(model_, batch);  // hands over the view
  auto context = ids(batch.context[0]), question = ids(batch.questions[0][0]);
  auto reading = method_->read(context, question, "w3 w4");
  ASSERT_EQ(reading.attention.size(), 17u);
  ASSERT_EQ(reading.answers.size(), 3u);  // 7, 7 and 3 tokens
  auto words = testing::tiny_words();
  for (size_t chunk = 0; chunk < 3; ++chunk) {
    auto begin = chunk * 7, end = std::min<size_t>(begin + 7, 17);
    std::vector<int64_t> prompt = method_->view.front_ids;
    auto add = [&](const std::vector<int32_t>& part) {
      prompt.insert(prompt.end(), part.begin(), part.end());
    };
    add({context.begin() + long(begin), context.begin() + long(end)});
    add(words->encode("\nIf the text does not say, answer none."));
    add(question);
    add(words->encode(" w3 w4"));
    auto read = [&](Method& method) {
      auto length = int64_t(prompt.size());
      ReaderInput reader;
      reader.inputs = method_->view.embed(at::tensor(prompt, at::kLong).unsqueeze(0));
      reader.valid = at::ones({1, length}, at::kBool);
      reader.order = reader.positions = at::arange(length, at::kLong).unsqueeze(0);
      reader.segments = {length};
      MethodState state;
      state.layers.resize(2);
      return method_->view.forward(reader, method, state);
    };
    LastRow plain(method_->shape());
    auto anchor = method_->view.logits(read(plain).select(1, prompt.size() - 1)).argmax(-1);
    prompt.push_back(anchor.item<int64_t>());
    LastRow recorded(method_->shape());
    read(recorded);
    for (size_t i = begin; i < end; ++i)
      EXPECT_NEAR(reading.attention[i], recorded.sum[int64_t(2 + i - begin)].item<double>(), 1e-4)
          << "token " << i;
  }
}

TEST_F(AttentionRag, WholeSentencesInDocumentOrderWithinTheBudget) {
  torch::NoGradGuard no_grad;
  auto words = testing::tiny_words();
  auto batch = testing::tiny_batch({{.context = 12, .sample = 1}});
  // Four sentences of three tokens: w w .
  auto text = words->encode("w1 w2 . w3 w4 . w5 w6 . w7 w8 .");
  ASSERT_EQ(text.size(), 12u);
  for (int64_t i = 0; i < 12; ++i) batch.context[0][i] = int64_t(text[size_t(i)]);
  auto chosen = [&](int64_t budget) {
    PassOptions options;
    options.budget = budget;
    auto state = method_->make_state(batch, options);
    model_->choose_tokens(batch, state);
    return ids(state.selected.index[0].masked_select(state.selected.mask[0]));
  };
  auto reading = [&] {
    chosen(12);
    return method_->read(text, ids(batch.questions[0][0]), "");
  }();
  // Sentences by their most attended token.
  std::vector<std::pair<double, int64_t>> best;
  for (int64_t s = 0; s < 4; ++s)
    best.emplace_back(
        *std::max_element(reading.attention.begin() + 3 * s, reading.attention.begin() + 3 * s + 3),
        s);
  std::sort(best.rbegin(), best.rend());
  std::vector<int32_t> two;
  for (auto s :
       {std::min(best[0].second, best[1].second), std::max(best[0].second, best[1].second)})
    for (int64_t i = 0; i < 3; ++i) two.push_back(int32_t(3 * s + i));
  ASSERT_TRUE(reading.answers[0] && reading.answers[1]);
  EXPECT_THAT(chosen(6), ElementsAreArray(two));
  EXPECT_THAT(chosen(5), ElementsAreArray(cut(two, best[1].second)));
  EXPECT_EQ(chosen(12).size(), 12u);
}

}  // namespace
}  // namespace dsrsq
