#include "dsrsq/batch/encoder_input.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <random>

#include "dsrsq/batch/collate.h"
#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

const std::string kFolder = DSRSQ_SOURCE_DIR "/tests/retriever/encoder/gelu";
const std::vector<std::string> kWords{"the",   "stone", "moon", "is",
                                      "green", "café",  "blue", "anna"};

class EncoderInputTest : public ::testing::Test {
 protected:
  EncoderInputTest()
      : backbone_(Tokenizer::from_json(build_word_tokenizer(kWords), "words")),
        pieces_(Tokenizer::from_file(kFolder)) {}

  // Every piece under a token by comparing all with all, from the text.
  std::vector<std::vector<int64_t>> overlaps(const std::vector<int32_t>& ids) const {
    std::vector<Tokenizer::Span> tokens, spans;
    auto text = backbone_.decode_with_spans(ids, tokens);
    pieces_.encode_with_spans(text, spans);
    std::vector<std::vector<int64_t>> out(tokens.size());
    for (size_t t = 0; t < tokens.size(); ++t)
      for (size_t p = 0; p < spans.size(); ++p)
        if (std::max(tokens[t].begin, spans[p].begin) < std::min(tokens[t].end, spans[p].end))
          out[t].push_back(int64_t(p));
    return out;
  }

  Tokenizer backbone_, pieces_;
};

std::string random_text(int seed) {
  const std::vector<std::string> parts{" the", " stone", " moon.",   " is",  " zebra", "\n",
                                       "  ",   " caf",   "\xc3\xa9", "\xff", "!",      " a\xcc\x81",
                                       "漢",   "-",      " 12",      "x"};
  std::mt19937 draw{uint32_t(seed)};
  std::string text;
  for (int i = 0; i < 120; ++i) text += parts[draw() % parts.size()];
  return text;
}

TEST_F(EncoderInputTest, TokensGetThePiecesWhoseBytesTheyOverlap) {
  EncoderCollator collator(kFolder, 24);
  int64_t none = 0, several = 0, windows = 0;
  for (int seed = 0; seed < 30; ++seed) {
    auto text = random_text(seed);
    auto ids = backbone_.encode(text);
    auto context = collator.context(backbone_, ids);
    // The windows, one behind the other, are the text.
    std::vector<int32_t> joined;
    std::vector<std::pair<int64_t, int64_t>> place;
    for (size_t e = 0; e < context.windows.size(); ++e) {
      const auto& window = context.windows[e];
      EXPECT_LE(window.size(), 24u);
      EXPECT_EQ(window.front(), pieces_.token_id("[CLS]"));
      EXPECT_EQ(window.back(), pieces_.token_id("[SEP]"));
      for (size_t i = 1; i + 1 < window.size(); ++i) {
        joined.push_back(window[i]);
        place.emplace_back(int64_t(e), int64_t(i));
      }
    }
    std::vector<Tokenizer::Span> spans;
    EXPECT_EQ(joined, pieces_.encode(backbone_.decode_with_spans(ids, spans)));
    auto expected = overlaps(ids);
    ASSERT_EQ(context.counts.size(), ids.size());
    size_t at = 0;
    for (size_t t = 0; t < ids.size(); ++t) {
      ASSERT_EQ(context.counts[t], int64_t(expected[t].size())) << seed << " token " << t;
      for (auto piece : expected[t])
        EXPECT_EQ(context.pieces[at++], place[size_t(piece)]) << seed << " token " << t;
      none += expected[t].empty();
      several += expected[t].size() > 1;
    }
    EXPECT_EQ(at, context.pieces.size());
    windows += int64_t(context.windows.size());
  }
  EXPECT_GT(none, 100);  // blanks, bytes that are no character
  EXPECT_GT(several, 100);
  EXPECT_GT(windows, 100);
}

TEST_F(EncoderInputTest, TextIsTheBytesOfTheIds) {
  std::vector<Tokenizer::Span> spans;
  for (const std::string text : {" the moon", "caf\xc3\xa9 moon", "zebra\x01\n"}) {
    EXPECT_EQ(backbone_.decode_with_spans(backbone_.encode(text), spans), text);
  }
  // Half a character, which decode would show as U+FFFD, has its own bytes.
  auto half = backbone_.encode("\xc3\xa9");
  half.resize(1);
  EXPECT_EQ(backbone_.decode_with_spans(half, spans), "\xc3");
  auto ids = backbone_.encode(" the moon");
  ids.insert(ids.begin() + 1, {backbone_.end_id(), 1 << 20});  // special, and no token at all
  EXPECT_EQ(backbone_.decode_with_spans(ids, spans), " the moon");
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans[1].begin, spans[1].end);
  EXPECT_EQ(spans[2].begin, spans[2].end);
  EXPECT_EQ(spans[3].begin, 4);
  EXPECT_EQ(spans[3].end, 9);
}

TEST_F(EncoderInputTest, WindowsEndAtSentencesAndLines) {
  EncoderCollator collator(kFolder, 12);  // ten pieces
  auto lengths = [&](const std::string& text) {
    std::vector<size_t> out;
    for (const auto& window : collator.context(backbone_, backbone_.encode(text)).windows)
      out.push_back(window.size() - 2);
    return out;
  };
  EXPECT_EQ(lengths("abcdef. abcdefgh"), (std::vector<size_t>{7, 8}));
  EXPECT_EQ(lengths("abcdef\nabcdefgh"), (std::vector<size_t>{6, 8}));
  EXPECT_EQ(lengths("ab. abcdefghijkl"), (std::vector<size_t>{10, 5}));  // too early an end
  EXPECT_EQ(lengths("abcdefghij"), (std::vector<size_t>{10}));
  EXPECT_EQ(lengths(""), (std::vector<size_t>{}));
}

TEST_F(EncoderInputTest, LongTextsAreCutToAWindow) {
  EncoderCollator collator(kFolder, 12);
  EXPECT_EQ(collator.text("abc").size(), 5u);
  auto cut = collator.text("abcdefghijklmnop");
  EXPECT_EQ(cut.size(), 12u);
  EXPECT_EQ(cut.back(), pieces_.token_id("[SEP]"));
}

TEST_F(EncoderInputTest, BatchesPadAndTakeRows) {
  EncoderCollator collator(kFolder, 12);
  PromptConfig prompt;
  std::vector<TextQuestion> sequences{{" the moon is blue. the stone is green", "moon?"},
                                      {" the", "what is the stone?"}};
  auto batch = collate_text(backbone_, prompt, sequences, &collator);
  const auto& input = batch.encoder;
  ASSERT_TRUE(input.defined());
  EXPECT_EQ(input.windows.size(0), 2);
  EXPECT_EQ(input.piece_counts.size(1), batch.context.size(1) + 1);
  EXPECT_TRUE(at::equal(input.piece_counts.sum(1), at::full({2}, input.pieces.size(1), at::kLong)));
  auto row = batch.rows({1});
  EXPECT_TRUE(at::equal(row.encoder.windows, input.windows.narrow(0, 1, 1)));
  EXPECT_TRUE(at::equal(row.encoder.piece_counts, input.piece_counts.narrow(0, 1, 1)));
  // Its own question, not the prompt's: [CLS] and pieces and [SEP].
  EXPECT_EQ(input.questions_valid[0][0].sum().item<int64_t>(),
            int64_t(collator.text("moon?").size()));
  EXPECT_FALSE(collate_text(backbone_, prompt, sequences).encoder.defined());
}

TEST(EncoderCollatorTest, NeedsControlTokens) {
  EXPECT_THROW(EncoderCollator(DSRSQ_SOURCE_DIR "/tests/text/golden", 32), DataError);
}

}  // namespace
}  // namespace dsrsq
