#include "dsrsq/batch/collate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "support/expect_tensor.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::TemporaryFolder;
using dsrsq::testing::write_store;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::string> kWords{"the", "color", "of",   "anna",  "berta",
                                      "is",  "red",   "blue", "a",     "stone",
                                      "ask", "?",     "moon", "green", "dark"};

ByteSpan span_of(const std::string& text, const std::string& part) {
  auto begin = static_cast<int64_t>(text.find(part));
  return {begin, begin + static_cast<int64_t>(part.size())};
}

Question question(const std::string& text, std::vector<std::string> answers) {
  Question question;
  question.id = text;
  question.text = text;
  question.answers = std::move(answers);
  return question;
}

// Records: 0 and 1 of a long document, 2 of a short one, unanswerable, 3 of a short one with two
// answers.
class CollateTest : public ::testing::Test {
 protected:
  CollateTest() : tokenizer_(Tokenizer::from_json(build_word_tokenizer(kWords), "words")) {
    const std::string text =
        " a stone the color of anna is dark red a moon the color of berta is green";
    DocumentExample first{
        text, "", {question("color of anna", {"dark red"}), question("color of berta", {"green"})}};
    first.questions[0].evidence = {span_of(text, " the color of anna is dark red")};
    first.questions[0].answer_spans = {span_of(text, " dark red")};
    first.questions[1].evidence = {span_of(text, " the color of berta is green")};
    first.questions[1].answer_spans = {span_of(text, " green")};
    DocumentExample second{" a moon a stone", "", {question("color of stone", {})}};
    DocumentExample third{" the moon is blue", "", {question("moon", {"blue", "dark blue"})}};
    write_store(path(), tokenizer_, {first, second, third}, {0, 0, 0});
    store_ = std::make_unique<Store>(path());
    prompt_.question = " ask {question} ?";
    prompt_.answer = " {answer}";
  }
  std::string path() const { return folder_ / "data.h5"; }
  Collator collator(int64_t maximum_context = 0) const {
    return {*store_, tokenizer_, prompt_, maximum_context};
  }
  std::string text_of(const at::Tensor& ids, const at::Tensor& chosen) const {
    auto picked = ids.masked_select(chosen);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < picked.numel(); ++i)
      tokens.push_back(static_cast<int32_t>(picked[i].item<int64_t>()));
    return tokenizer_.decode(tokens, true);
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_;
  PromptConfig prompt_;
  std::unique_ptr<Store> store_;
};

TEST_F(CollateTest, PadsAtTheEndWithZerosThatAreMarkedInvalid) {
  auto batch = collator().collate({{0, 1}, {2}}, true);
  EXPECT_EQ(batch.size(), 2);
  EXPECT_EQ(text_of(batch.context[0], batch.context_valid[0]),
            " a stone the color of anna is dark red a moon the color of berta is green");
  EXPECT_EQ(text_of(batch.context[1], batch.context_valid[1]), " a moon a stone");
  EXPECT_EQ(batch.context_valid.sum(1)[1].item<int64_t>(), 4);
  EXPECT_TRUE(batch.context_valid[1].slice(0, 0, 4).all().item<bool>());
  for (const auto& [ids, valid] : {std::pair{batch.context, batch.context_valid},
                                   {batch.tail, batch.tail_valid},
                                   {batch.questions, batch.questions_valid}}) {
    EXPECT_EQ(ids.masked_select(valid.logical_not()).abs().sum().item<int64_t>(), 0);
    EXPECT_GT(valid.logical_not().sum().item<int64_t>(), 0) << "this batch is to be ragged";
  }
  EXPECT_FALSE(batch.questions_valid[1][1].any().item<bool>())
      << "the second sequence has one question";
  EXPECT_TRUE(
      (batch.labels.masked_select(batch.tail_valid.logical_not()) == -100).all().item<bool>());
}

TEST_F(CollateTest, LabelsAreTheNextTokensAtAnswersAlone) {
  auto batch = collator().collate({{0, 1}}, true);
  EXPECT_EQ(text_of(batch.tail[0], batch.tail_valid[0]),
            " ask color of anna ? dark red<|eos|> ask color of berta ? green<|eos|>");
  auto labelled = batch.labels[0] >= 0;
  EXPECT_EQ(text_of(batch.labels[0], labelled), " dark red<|eos|> green<|eos|>");
  auto next = batch.tail[0].slice(0, 1);
  auto here = batch.labels[0].slice(0, 0, next.size(0));
  EXPECT_TRUE((here == next).masked_select(here >= 0).all().item<bool>());
  EXPECT_EQ(batch.labels[0][-1].item<int64_t>(), -100) << "nothing follows the last token";
  EXPECT_EQ(batch.label_tokens(), 5);
}

TEST_F(CollateTest, WithoutAnswersTheTailEndsWhereTheAnswerBegins) {
  auto batch = collator().collate({{0}, {3}}, false);
  EXPECT_EQ(text_of(batch.tail[0], batch.tail_valid[0]), " ask color of anna ?");
  EXPECT_EQ(text_of(batch.tail[1], batch.tail_valid[1]), " ask moon ?");
  EXPECT_EQ(batch.label_tokens(), 0);
}

TEST_F(CollateTest, TheRetrieverSeesTheSameWithAnswersAndWithout) {
  auto with = collator().collate({{0, 1}, {2}}, true),
       without = collator().collate({{0, 1}, {2}}, false);
  EXPECT_TENSOR_EQUAL(with.questions, without.questions);
  EXPECT_TENSOR_EQUAL(with.questions_valid, without.questions_valid);
  EXPECT_TENSOR_EQUAL(with.context, without.context);
  EXPECT_EQ(text_of(with.questions[0][0], with.questions_valid[0][0]), " ask color of anna ?");
  EXPECT_EQ(text_of(with.questions[0][1], with.questions_valid[0][1]), " ask color of berta ?");
}

TEST_F(CollateTest, MarksTheEvidenceAndTheAnswerOfEachQuestion) {
  auto batch = collator().collate({{0, 1}}, true);
  EXPECT_EQ(text_of(batch.context[0], batch.evidence[0][0]), " the color of anna is dark red");
  EXPECT_EQ(text_of(batch.context[0], batch.answer_tokens[0][0]), " dark red");
  EXPECT_EQ(text_of(batch.context[0], batch.evidence[0][1]), " the color of berta is green");
  EXPECT_EQ(text_of(batch.context[0], batch.answer_tokens[0][1]), " green");
  EXPECT_EQ(batch.questions_with_evidence(), 2);
}

TEST_F(CollateTest, AnUnanswerableQuestionTrainsOnTheEndTokenAlone) {
  auto batch = collator().collate({{2}}, true);
  EXPECT_EQ(text_of(batch.tail[0], batch.tail_valid[0]), " ask color of stone ?<|eos|>");
  EXPECT_EQ(batch.label_tokens(), 1);
  EXPECT_EQ(batch.labels[0].max().item<int64_t>(), tokenizer_.end_id());
  EXPECT_EQ(batch.questions_with_evidence(), 0);
  EXPECT_TRUE(batch.records[0][0].answers.empty());
}

TEST_F(CollateTest, TrainsOnTheFirstOfSeveralAnswers) {
  auto batch = collator().collate({{3}}, true);
  EXPECT_EQ(text_of(batch.tail[0], batch.tail_valid[0]), " ask moon ? blue<|eos|>");
  EXPECT_THAT(batch.records[0][0].answers, ElementsAre("blue", "dark blue"));
}

TEST_F(CollateTest, WithoutEndTokenOnlyTheAnswerIsLearnt) {
  prompt_.end_answer = false;
  auto batch = collator().collate({{3}}, true);
  EXPECT_EQ(text_of(batch.tail[0], batch.tail_valid[0]), " ask moon ? blue");
  EXPECT_EQ(batch.label_tokens(), 1);
}

TEST_F(CollateTest, CutsLongDocumentsAndTheirMarks) {
  auto cutting = collator(8);  // through the answer " dark red", tokens 7 and 8
  auto batch = cutting.collate({{0, 1}, {2}}, true);
  EXPECT_EQ(batch.context.size(1), 8);
  EXPECT_EQ(text_of(batch.context[0], batch.answer_tokens[0][0]), " dark");
  EXPECT_FALSE(batch.evidence[0][1].any().item<bool>()) << "this evidence was cut off";
  EXPECT_EQ(batch.questions_with_evidence(), 1);
}

TEST_F(CollateTest, SampleIdsNameTheFirstRecord) {
  EXPECT_THAT(collator().collate({{2}, {0, 1}}, true).sample_ids, ElementsAre(2, 0));
}

TEST(PromptConfig, NamesTheMissingPlaceholder) {
  PromptConfig prompt;
  prompt.validate({});
  prompt.question = "Q: {questions}";
  try {
    prompt.validate({});
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("prompt.question"));
    EXPECT_THAT(error.what(), HasSubstr("{question}"));
  }
}

// Control tokens of the pattern are tokens; those of the data stay text.
TEST_F(CollateTest, ATemplateKnowsItsOwnSpecialTokensOnly) {
  auto end = tokenizer_.end_id();
  EXPECT_THAT(encode_template(tokenizer_, "<|eos|> the {x}<|eos|> moon", "{x}", "stone"),
              ElementsAre(end, tokenizer_.token_id("\u0120the"), tokenizer_.token_id("\u0120stone"),
                          end, tokenizer_.token_id("\u0120moon")));
  auto data = encode_template(tokenizer_, " {x}", "{x}", "<|eos|>");
  EXPECT_THAT(data, ::testing::Not(::testing::Contains(end)));
  EXPECT_EQ(tokenizer_.decode(data), " <|eos|>");
  EXPECT_EQ(tokenizer_.decode(encode_template(tokenizer_, " a < b > c <none>")),
            " a < b > c <none>");
  EXPECT_TRUE(encode_template(tokenizer_, "").empty());
}

// The same tensors as for a record of a store.
TEST_F(CollateTest, TextIsCollatedAsRecordsAre) {
  auto stored = collator().collate({{2}, {3}}, false);
  auto text = collate_text(tokenizer_, prompt_,
                           {{" a moon a stone", "color of stone"}, {" the moon is blue", "moon"}});
  EXPECT_TENSOR_EQUAL(text.context, stored.context);
  EXPECT_TENSOR_EQUAL(text.context_valid, stored.context_valid);
  EXPECT_TENSOR_EQUAL(text.questions, stored.questions);
  EXPECT_TENSOR_EQUAL(text.tail, stored.tail);
  EXPECT_TENSOR_EQUAL(text.tail_valid, stored.tail_valid);
  EXPECT_THAT(text.sample_ids, ElementsAre(0, 1));
  EXPECT_EQ(text.records[1][0].question, "moon");
}

}  // namespace
}  // namespace dsrsq
