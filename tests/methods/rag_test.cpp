#include "dsrsq/methods/rag.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/longrag.h"
#include "dsrsq/methods/standard.h"
#include "methods/tiny_words.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Ints = std::vector<int64_t>;

// Every word, with a blank in front, is one token.
std::shared_ptr<const Tokenizer> tokenizer() {
  std::vector<std::string> words{"fox", "dog", "cat", "sea", "sky", "tree", "stone", "rain"};
  return std::make_shared<const Tokenizer>(
      Tokenizer::from_json(build_word_tokenizer(words), "words"));
}

constexpr char kText[] =
    " tree stone sea sky fox stone rain sea dog dog rain sky cat tree sky stone";  // 16 words

TEST(CutPassages, ByWordsWithAStride) {
  std::vector<Tokenizer::Span> spans;
  auto text = tokenizer()->decode_with_spans(tokenizer()->encode(kText), spans);
  ASSERT_EQ(spans.size(), 16u);
  auto cut = [&](int64_t words, double stride) {
    std::vector<std::pair<int64_t, int64_t>> found;
    for (const auto& unit : cut_passages(text, spans, words, stride))
      found.emplace_back(unit.begin, unit.end);
    return found;
  };
  EXPECT_THAT(cut(8, 0.5), ElementsAre(std::pair(0, 8), std::pair(4, 12), std::pair(8, 16)));
  EXPECT_THAT(cut(6, 1), ElementsAre(std::pair(0, 6), std::pair(6, 12), std::pair(12, 16)));
  EXPECT_THAT(cut(100, 0.5), ElementsAre(std::pair(0, 16)));
  EXPECT_EQ(cut_passages(text, spans, 4, 1)[1].text, "fox stone rain sea ");
  EXPECT_THAT(cut_passages("", {}, 4, 1), IsEmpty());
}

struct Fixture {
  explicit Fixture(RagConfig config) : config_(std::move(config)) {}
  Ints chosen(const std::string& question, int64_t budget, const std::string& text = kText) {
    auto model = testing::tiny_model();
    StandardConfig standard;
    standard.window = 1 << 20;
    RagMethod rag(std::make_shared<StandardMethod>(standard, model), config_, tokenizer());
    return read(rag, question, budget, text);
  }
  static Ints read(RagMethod& rag, const std::string& question, int64_t budget,
                   const std::string& text) {
    auto batch = collate_text(*tokenizer(), PromptConfig{}, {{text, question}});
    PassOptions options;
    options.budget = budget;
    auto state = rag.make_state(batch, options);
    auto selected = rag.select(batch, {}, state);
    EXPECT_EQ(selected.slots(), selected.index.size(1));
    EXPECT_TRUE(selected.mask.all().item<bool>());
    auto row = selected.index[0].contiguous();
    return {row.data_ptr<int64_t>(), row.data_ptr<int64_t>() + row.numel()};
  }
  RagConfig config_;
};

RagConfig four_words() {
  RagConfig config;
  config.passage_words = 4;
  config.stride = 1;
  return config;
}

// Passages of four words: fox stands in the second, dog, twice, in the third, cat in the last.
TEST(Rag, TheBestPassageStandsLastAndTheLastOneIsCut) {
  Fixture rag(four_words());
  EXPECT_EQ(rag.chosen("dog cat", 8), (Ints{12, 13, 14, 15, 8, 9, 10, 11}));
  EXPECT_EQ(rag.chosen("dog cat", 6), (Ints{12, 13, 8, 9, 10, 11}));
  EXPECT_EQ(rag.chosen("fox", 3), (Ints{4, 5, 6}));
  rag.config_.order = "document";
  EXPECT_EQ(rag.chosen("dog cat", 6), (Ints{8, 9, 10, 11, 12, 13}));
}

TEST(Rag, OverlappingPassagesAreReadOnce) {
  auto config = four_words();
  config.stride = 0.5;  // {6..9} and {8..11} hold both dogs; of equals the first is better
  Fixture rag(config);
  EXPECT_EQ(rag.chosen("dog", 6), (Ints{10, 11, 6, 7, 8, 9}));
}

TEST(Rag, ReadsAtMostSoManyPassages) {
  auto config = four_words();
  config.passages = 1;
  Fixture rag(config);
  EXPECT_EQ(rag.chosen("dog cat", 16), (Ints{8, 9, 10, 11}));
}

// Whatever model.positions says: the best passage stands last, and places are counted as one reads.
TEST(Rag, ReorderedPassagesAreReadAsATextOfTheirOwn) {
  torch::NoGradGuard no_grad;
  auto words = testing::tiny_words();
  auto shape = testing::tiny_model();
  shape.positions = "original";
  auto rag = std::make_shared<RagMethod>(std::make_shared<StandardMethod>(StandardConfig{}, shape),
                                         four_words(), words);
  auto model = testing::tiny_language_model(shape, rag);
  auto dense = testing::tiny_language_model(
      shape, std::make_shared<StandardMethod>(StandardConfig{}, shape));
  PassOptions options;
  options.budget = 8;
  PromptConfig prompt;
  prompt.question = " . {question}";
  auto batch =
      collate_text(*words, prompt, {{"w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12", "w6 w6 w10"}});
  auto copy = collate_text(*words, prompt, {{"w9 w10 w11 w12 w5 w6 w7 w8", "w6 w6 w10"}});
  MethodState state;
  auto hidden = testing::read_batch(model, batch, options, &state);
  EXPECT_TENSOR_NEAR(hidden, testing::read_batch(dense, copy), (testing::Tolerance{0, 1e-5}));
  auto one = at::ones({1}, at::kLong), open = at::ones({1}, at::kBool);
  MethodState copied;
  testing::read_batch(dense, copy, {}, &copied);
  EXPECT_TENSOR_NEAR(model->read_next(one, open, state), dense->read_next(one, open, copied),
                     (testing::Tolerance{0, 1e-5}));
}

// A model that says what it is told, token by token, and whose embedding of an id is the id.
struct Scripted {
  explicit Scripted(std::vector<int32_t> script) : script_(std::move(script)) {
    view.embed = [this](const at::Tensor& ids) {
      read.push_back(ids);
      return ids.to(at::kFloat).unsqueeze(-1);
    };
    view.forward = [](const ReaderInput& input, Method&, MethodState&) { return input.inputs; };
    view.logits = [this](const at::Tensor& hidden) {
      auto logits = at::zeros({hidden.size(0), tokenizer()->vocabulary_size()});
      logits.select(1, script_.at(said++)).fill_(1);
      return logits;
    };
  }
  LanguageModelView view;
  std::vector<at::Tensor> read;
  size_t said = 0;

 private:
  std::vector<int32_t> script_;
};

Ints ids_of(const std::string& text) {
  auto ids = tokenizer()->encode(text);
  return {ids.begin(), ids.end()};
}
Ints row_of(const at::Tensor& x) {
  auto row = x[0].to(at::kLong).reshape(-1).contiguous();
  return {row.data_ptr<int64_t>(), row.data_ptr<int64_t>() + row.numel()};
}

PromptConfig short_prompt() {
  PromptConfig prompt;
  prompt.question = " tree {question}";
  prompt.answer = " {answer}";
  prompt.end_answer = false;
  return prompt;
}

// The text, of passages of four words, is asked about the dog, which stands in the third.
struct Asked {
  explicit Asked(RagConfig config, RagExamples examples = {})
      : rag(std::make_shared<StandardMethod>(StandardConfig{}, testing::tiny_model()),
            std::move(config), tokenizer(), std::move(examples)),
        batch(collate_text(*tokenizer(), short_prompt(), {{kText, "dog"}})),
        state(rag.make_state(batch, {})) {}
  RagMethod rag;
  Batch batch;
  MethodState state;
};

// DRAG, by hand: the example's passage that holds its question's word, its question and answer, the
// end of the example; then the text's own passages.
TEST(Rag, DemonstrationsStandInFront) {
  testing::TemporaryFolder folder;
  DocumentExample example;
  example.document = " rain dog cat dog sea sky fox stone";
  Question question;
  question.text = "fox";
  question.answers = {"stone"};
  example.questions = {question};
  testing::write_store(folder / "examples.h5", *tokenizer(), {example}, {0});
  auto config = four_words();
  config.passages = 1;
  config.demonstrations = 1;
  config.demonstration_end = " rain";
  Asked asked(config, {folder / "examples.h5", short_prompt()});
  Scripted model({});
  auto selected = asked.rag.select(asked.batch, model.view, asked.state);
  auto front = ids_of(" sea sky fox stone tree fox stone rain");
  ASSERT_EQ(front.size(), 8u);
  EXPECT_EQ(row_of(selected.index), (Ints{-1, -1, -1, -1, -1, -1, -1, -1, 8, 9, 10, 11}));
  auto read = front;
  for (auto id : ids_of(" dog dog rain sky")) read.push_back(id);
  EXPECT_EQ(row_of(asked.state.selected_inputs), read);
  EXPECT_TRUE(selected.mask.all().item<bool>());
  EXPECT_TRUE(selected.reordered);
  // An example is no token of the context.
  EXPECT_EQ(selected.chosen(16).sum().item<int64_t>(), 4);
  EXPECT_EQ(selected.marked(at::ones({1, 16}, at::kBool)).sum().item<int64_t>(), 4);
  EXPECT_THAT(asked.rag.tokens_to_choose(), ElementsAre(0));
  config.demonstrations = 2;
  Asked more(config, {folder / "examples.h5", short_prompt()});
  EXPECT_THROW(more.rag.select(more.batch, model.view, more.state), DataError);
}

// IterDRAG, by hand: the model asks for the fox, gets its passage, answers in two words, and wants
// no more.
TEST(Rag, FollowUpQuestionsBringPassagesAndAnswers) {
  auto config = four_words();
  config.passages = 1;
  config.iterations = 3;
  config.iteration_tokens = 2;
  config.follow_up = " cat";
  config.final_answer = " stone";
  config.intermediate_answer = " rain";
  auto word = [](const char* text) { return tokenizer()->encode(text).at(0); };
  // cat before stone: it asks on; "fox", then no text; "sea sky"; then stone before cat.
  Scripted model({word(" cat"), word(" fox"), 0, word(" sea"), word(" sky"), word(" stone")});
  Asked asked(config, {"", short_prompt()});
  auto selected = asked.rag.select(asked.batch, model.view, asked.state);
  EXPECT_EQ(model.said, 6u);
  EXPECT_EQ(row_of(selected.index), (Ints{4, 5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1, -1}));
  EXPECT_EQ(row_of(asked.state.selected_inputs),
            ids_of(" fox stone rain sea dog dog rain sky cat fox rain sea sky"));
  ASSERT_EQ(model.read.size(), 7u);  // the last: what the reader reads
  EXPECT_EQ(row_of(model.read[0]), ids_of(" dog dog rain sky tree dog"));
  EXPECT_EQ(row_of(model.read[1]), ids_of(" dog dog rain sky tree dog cat"));
  EXPECT_EQ(row_of(model.read[2]), ids_of(" fox"));
  EXPECT_EQ(row_of(model.read[3]), ids_of(" fox stone rain sea dog dog rain sky tree fox"));
  EXPECT_EQ(row_of(model.read[5]),
            ids_of(" fox stone rain sea dog dog rain sky cat fox rain sea sky tree dog"));
  // Prompts of 6, 7, 10 and 15 tokens, and 1 and 2 that were written.
  EXPECT_THAT(asked.rag.tokens_to_choose(), ElementsAre(6 + 7 + 1 + 10 + 2 + 15));
}

// The budget pays for one passage, so that follow-up questions find no room; one that holds no text
// ends the asking.
TEST(Rag, FollowUpQuestionsKeepTheBudget) {
  auto config = four_words();
  config.iterations = 2;
  config.follow_up = " cat";
  config.final_answer = " stone";
  auto word = [](const char* text) { return tokenizer()->encode(text).at(0); };
  Scripted model({word(" cat"), word(" fox"), 0, word(" sea"), 0, word(" cat"), 0});
  Asked asked(config, {"", short_prompt()});
  asked.state.options.budget = 4;
  auto selected = asked.rag.select(asked.batch, model.view, asked.state);
  EXPECT_EQ(model.said, 7u);
  EXPECT_EQ(selected.chosen(16).sum().item<int64_t>(), 4);
  config.final_answer = config.follow_up;
  EXPECT_THROW(config.validate({}), ConfigError);
}

// With the real reader: as a text in which the example stands in front.
TEST(Rag, DemonstrationsAreReadAsText) {
  torch::NoGradGuard no_grad;
  auto words = testing::tiny_words();
  auto shape = testing::tiny_model();
  PromptConfig prompt;
  prompt.question = " . {question}";
  prompt.answer = " {answer}";
  prompt.end_answer = false;
  testing::TemporaryFolder folder;
  DocumentExample example;
  example.document = "w1 w2 w3 w4";
  Question question;
  question.text = "w3";
  question.answers = {"w4"};
  example.questions = {question};
  testing::write_store(folder / "examples.h5", *words, {example}, {0});
  auto config = four_words();
  config.demonstrations = 1;
  config.demonstration_end = "?";
  auto reader = std::make_shared<StandardMethod>(StandardConfig{}, shape);
  auto rag = std::make_shared<RagMethod>(reader, config, words,
                                         RagExamples{folder / "examples.h5", prompt});
  auto model = testing::tiny_language_model(shape, rag);
  auto dense = testing::tiny_language_model(shape, reader);
  PassOptions options;
  options.budget = 4;
  auto hidden = testing::read_batch(
      model, collate_text(*words, prompt, {{"w5 w6 w7 w8 w9 w10 w11 w12", "w10"}}), options);
  auto text = testing::read_batch(
      dense, collate_text(*words, prompt, {{"w1 w2 w3 w4 . w3 w4 ? w9 w10 w11 w12", "w10"}}));
  EXPECT_TENSOR_NEAR(hidden, text, (testing::Tolerance{0, 1e-5}));
}

TEST(Rag, DenseNeedsAnEncoder) {
  RagConfig config;
  config.retriever = "dense";
  EXPECT_THROW(config.validate({}), ConfigError);
}

TEST(LongRag, JoinsPassagesUpToAUnit) {
  using Units = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(join_passages({0, 0, 1, 1, 2, 3, 3}, 4), (Units{{0, 4}, {4, 7}}));
  EXPECT_EQ(join_passages({0, 0, 0, 0, 0, 1}, 2), (Units{{0, 5}, {5, 6}}));
  EXPECT_EQ(join_passages({0, 0, 0}, 100), (Units{{0, 3}}));
  EXPECT_TRUE(join_passages({}, 4).empty());
}

TEST(LongRag, AUnitIsAsGoodAsItsBestPassage) {
  auto config = four_words();
  config.unit_tokens = 9;
  auto model = testing::tiny_model();
  StandardConfig standard;
  LongRagMethod rag(std::make_shared<StandardMethod>(standard, model), config, tokenizer());
  // Three texts between blank lines, 4 words each (and what the lines take); the question is in the
  // last one.
  auto ids =
      Fixture::read(rag, "cat", 4, " sea sky sea sky\n\n rain rain tree fox\n\n stone cat dog sea");
  auto batch =
      collate_text(*tokenizer(), PromptConfig{},
                   {{" sea sky sea sky\n\n rain rain tree fox\n\n stone cat dog sea", "cat"}});
  ASSERT_EQ(ids.size(), 4u);
  for (auto id : ids) EXPECT_EQ(batch.passage[0][id].item<int64_t>(), 2);
}

}  // namespace
}  // namespace dsrsq
