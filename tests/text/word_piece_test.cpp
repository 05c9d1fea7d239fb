// WordPiece against Python's `tokenizers` (golden/word_piece.json by make_word_piece_golden.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dsrsq/core/error.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

const Json& golden() {
  static const Json json = [] {
    std::ifstream file(std::string(DSRSQ_SOURCE_DIR) + "/tests/text/golden/word_piece.json");
    Json cases = Json::parse(file);
    for (Json& one : cases)
      one["tokenizer"]["model"]["vocab"] = cases[0]["tokenizer"]["model"]["vocab"];
    return cases;
  }();
  return json;
}

Tokenizer make(const Json& json) { return Tokenizer::from_json(json.dump(), "test.json"); }

TEST(WordPiece, IdsSpansAndTextAreThoseOfPython) {
  int64_t unknown = 0, ranges = 0;
  for (const Json& one : golden()) {
    const Tokenizer tokenizer = make(one["tokenizer"]);
    for (const Json& text : one["texts"]) {
      const std::string raw = from_hex(text["hex"]);
      SCOPED_TRACE(one["tokenizer"]["normalizer"].dump() + " " + text["hex"].get<std::string>());
      std::vector<Tokenizer::Span> spans;
      const std::vector<int32_t> ids = tokenizer.encode_with_spans(raw, spans);
      EXPECT_EQ(Json(ids), text["ids"]);
      EXPECT_EQ(ids, tokenizer.encode(raw));
      EXPECT_EQ(tokenizer.decode(ids, true), text["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer.decode(ids), text["plain"].get<std::string>());
      unknown += std::count(ids.begin(), ids.end(), tokenizer.token_id("[UNK]"));
      if (!text.contains("spans")) continue;
      Json got = Json::array();
      for (const auto& span : spans) got.push_back({span.begin, span.end});
      EXPECT_EQ(got, text["spans"]);
      ranges += int64_t(spans.size());
    }
  }
  EXPECT_GT(unknown, 100);
  EXPECT_GT(ranges, 2000);
}

TEST(WordPiece, RangesOfInvalidBytesAreThoseOfTheFile) {
  const Tokenizer tokenizer = make(golden()[0]["tokenizer"]);
  std::vector<Tokenizer::Span> spans;
  // The invalid byte is dropped, as U+FFFD is.
  EXPECT_EQ(tokenizer.encode_with_spans("the\xff memory", spans),
            (std::vector<int32_t>{tokenizer.token_id("the"), tokenizer.token_id("memory")}));
  EXPECT_EQ(spans[1].begin, 5);
  EXPECT_EQ(spans[1].end, 11);
}

TEST(WordPiece, ControlTokensAreTextUnlessAskedFor) {
  const Tokenizer tokenizer = make(golden()[0]["tokenizer"]);
  const int32_t mask = tokenizer.token_id("[MASK]");
  EXPECT_THAT(tokenizer.encode("the [MASK]"), ::testing::Not(::testing::Contains(mask)));
  EXPECT_EQ(tokenizer.encode("the [MASK]", true),
            (std::vector<int32_t>{tokenizer.token_id("the"), mask}));
}

class Vocabulary : public ::testing::Test {
 protected:
  Vocabulary() : folder_(fs::temp_directory_path() / ("word_piece_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    std::vector<std::string> tokens(golden()[0]["tokenizer"]["model"]["vocab"].size());
    for (const auto& [token, id] : golden()[0]["tokenizer"]["model"]["vocab"].items())
      tokens.at(id.get<size_t>()) = token;
    for (const std::string& token : tokens) vocabulary_ += token + "\n";
  }
  ~Vocabulary() override { fs::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  fs::path folder_;
  std::string vocabulary_;
};

TEST_F(Vocabulary, IsTheSameTokenizer) {
  write("vocab.txt", vocabulary_);
  for (const size_t cased : {size_t{0}, size_t{1}}) {
    if (cased) write("tokenizer_config.json", R"({"do_lower_case": false})");
    const Tokenizer tokenizer = Tokenizer::from_file(folder_.string());
    for (const Json& text : golden()[cased]["texts"])
      EXPECT_EQ(Json(tokenizer.encode(from_hex(text["hex"]))), text["ids"]) << cased;
  }
  EXPECT_NE(Tokenizer::from_file((folder_ / "vocab.txt").string()).fingerprint(),
            Tokenizer::from_word_pieces(vocabulary_, "vocab.txt").fingerprint());
}

void expect_error(const std::function<void()>& action, const std::string& part) {
  try {
    action();
    ADD_FAILURE() << "no error: " << part;
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST_F(Vocabulary, ErrorsNameWhatIsWrong) {
  expect_error([&] { Tokenizer::from_word_pieces("a\nb\na\n", "vocab.txt"); },
               "vocab.txt:3: the token 'a' stands twice");
  expect_error([&] { Tokenizer::from_word_pieces("[PAD]\n[UNK]\n", "vocab.txt"); },
               "vocab.txt: expected the token [CLS]");
  write("vocab.txt", vocabulary_);
  write("tokenizer_config.json", R"({"do_lower_case": "no"})");
  expect_error([&] { Tokenizer::from_file(folder_.string()); }, "do_lower_case: expected true");
}

TEST(WordPiece, UnsupportedComponentsAreNamed) {
  const auto with = [&](const std::function<void(Json&)>& change, const std::string& part) {
    Json json = golden()[0]["tokenizer"];
    change(json);
    expect_error([&] { make(json); }, part);
  };
  with([](Json& j) { j["normalizer"] = {{"type", "NFC"}}; }, "normalizer NFC is not supported");
  with([](Json& j) { j["normalizer"] = nullptr; }, "normalizer null is not supported");
  with([](Json& j) { j["pre_tokenizer"] = {{"type", "Whitespace"}}; }, "pre_tokenizer Whitespace");
  with([](Json& j) { j["decoder"] = {{"type", "ByteLevel"}}; }, "decoder ByteLevel");
  with([](Json& j) { j["decoder"]["prefix"] = "@@"; }, "decoder.prefix");
  with([](Json& j) { j["model"]["unk_token"] = "[no]"; }, "[no]");
  with([](Json& j) { j["model"]["max_input_chars_per_word"] = -1; }, "max_input_chars_per_word");
  with([](Json& j) { j["added_tokens"][0]["normalized"] = true; }, "normalized is not supported");
  with([](Json& j) { j["normalizer"] = nullptr, j["model"]["type"] = "Unigram"; },
       "model Unigram is not supported");
}

}  // namespace
}  // namespace dsrsq
