#include "dsrsq/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

std::string read_golden(const std::string& name) {
  const std::string path = std::string(DSRSQ_SOURCE_DIR) + "/tests/text/golden/" + name;
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

const Json& base_json() {
  static const Json json = Json::parse(read_golden("tokenizer.json"));
  return json;
}

const Json& golden() {
  static const Json json = Json::parse(read_golden("tokenizer_golden.json"));
  return json;
}

// As apply_variant of make_golden.py.
Json apply_variant(const Json& change) {
  Json root = base_json();
  if (change.contains("root")) root.update(change["root"]);
  if (change.contains("model")) root["model"].update(change["model"]);
  for (const Json& token : change.value("added_tokens", Json::array()))
    root["added_tokens"].push_back(token);
  Json& vocabulary = root["model"]["vocab"];
  for (const Json& token : change.value("remove", Json::array()))
    vocabulary.erase(token.get<std::string>());
  Json merges = Json::array();
  for (const Json& merge : root["model"]["merges"]) {
    const std::string left = merge[0], right = merge[1];
    if (vocabulary.contains(left) && vocabulary.contains(right) &&
        vocabulary.contains(left + right)) {
      merges.push_back(merge);
    }
  }
  root["model"]["merges"] = merges;
  return root;
}

Tokenizer load(const Json& json) { return Tokenizer::from_json(json.dump(), "test.json"); }
Tokenizer base() { return load(base_json()); }

std::string error_of(const std::string& json) {
  try {
    Tokenizer::from_json(json, "test.json");
  } catch (const DataError& e) {
    return e.what();
  }
  return "no error";
}

std::string error_after(const std::function<void(Json&)>& change) {
  Json json = base_json();
  change(json);
  return error_of(json.dump());
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(TokenizerGolden, IdsAndDecodedTextEqualPython) {
  const Json& texts = golden()["texts"];
  size_t tokens = 0;
  for (const auto& [name, variant] : golden()["variants"].items()) {
    const Tokenizer tokenizer = load(apply_variant(variant["change"]));
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string text = from_hex(texts[i]);
      SCOPED_TRACE(concat(name, " text ", i, ": ", text));
      EXPECT_EQ(tokenizer.encode(text), variant["ids"][i].get<Ids>());
      const Ids special = variant["ids_special"][i].get<Ids>();
      EXPECT_EQ(tokenizer.encode(text, true), special);
      EXPECT_EQ(tokenizer.decode(special), variant["decoded"][i].get<std::string>());
      EXPECT_EQ(tokenizer.decode(special, true), variant["decoded_special"][i].get<std::string>());
      Ids broken;
      for (size_t k = 1; k < special.size(); k += 2) broken.push_back(special[k]);
      EXPECT_EQ(tokenizer.decode(broken, true), variant["decoded_broken"][i].get<std::string>());
      tokens += special.size();
    }
  }
  EXPECT_GT(tokens, 10000u);
}

TEST(Tokenizer, SpansCoverTheTextInOrder) {
  for (const char* name : {"gpt2", "prefix", "no_regex", "digits", "llama3"}) {
    const Tokenizer tokenizer = load(apply_variant(golden()["variants"][name]["change"]));
    for (const Json& hex : golden()["texts"]) {
      const std::string text = from_hex(hex);
      SCOPED_TRACE(concat(name, ": ", text));
      std::vector<Tokenizer::Span> spans;
      const Ids ids = tokenizer.encode_with_spans(text, spans);
      ASSERT_EQ(ids, tokenizer.encode(text));
      ASSERT_EQ(ids.size(), spans.size());
      int64_t covered = 0;
      for (const auto& span : spans) {
        EXPECT_LE(span.begin, covered);  // equal but inside an invalid sequence
        EXPECT_LE(span.begin, span.end);
        EXPECT_GE(span.end, covered);
        covered = span.end;
      }
      EXPECT_EQ(covered, static_cast<int64_t>(text.size()));
    }
  }
}

TEST(Tokenizer, SpanIsTheTokensText) {
  const Tokenizer tokenizer = base();
  const std::string text = "The reader, caf\xC3\xA9 42";
  std::vector<Tokenizer::Span> spans;
  const Ids ids = tokenizer.encode_with_spans(text, spans);
  std::string joined;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string part = text.substr(spans[i].begin, spans[i].end - spans[i].begin);
    if (part.find_first_of("\xC3\xA9") == std::string::npos) {
      EXPECT_EQ(tokenizer.decode({ids[i]}), part);
    }
    joined += part;
  }
  EXPECT_EQ(joined, text);
}

TEST(Tokenizer, SpansOfInvalidBytesPointIntoTheOriginal) {
  const Tokenizer tokenizer = base();
  std::vector<Tokenizer::Span> spans;
  const std::string text =
      "a\xF0\x9F\x98"
      "b";  // a truncated emoji: one U+FFFD, whose bytes are three tokens here
  const Ids ids = tokenizer.encode_with_spans(text, spans);
  ASSERT_GE(ids.size(), 3u);
  EXPECT_EQ(spans.front().begin, 0);
  for (size_t i = 1; i + 1 < ids.size(); ++i) {
    EXPECT_EQ(spans[i].begin, 1);
    EXPECT_EQ(spans[i].end, 4);
  }
  EXPECT_EQ(spans.back().begin, 4);
  EXPECT_EQ(spans.back().end, 5);
  EXPECT_EQ(tokenizer.decode(ids),
            "a\xEF\xBF\xBD"
            "b");
}

TEST(Tokenizer, SpecialTokensAreTextUnlessAskedFor) {
  const Tokenizer tokenizer = base();
  const int32_t eos = tokenizer.token_id("<|eos|>");
  const Ids plain = tokenizer.encode("x<|eos|>");
  EXPECT_EQ(std::count(plain.begin(), plain.end(), eos), 0);
  EXPECT_EQ(tokenizer.decode(plain), "x<|eos|>");
  const Ids parsed = tokenizer.encode("x<|eos|>", true);
  EXPECT_EQ(parsed.back(), eos);
  EXPECT_EQ(tokenizer.decode(parsed), "x");
  EXPECT_EQ(tokenizer.decode(parsed, true), "x<|eos|>");
}

TEST(Tokenizer, IgnoreMergesNeverYieldsASpecialToken) {
  Json json = apply_variant(golden()["variants"]["no_regex"]["change"]);
  json["model"]["ignore_merges"] = true;  // the whole text is one word, which the vocabulary has
  const Tokenizer tokenizer = load(json);
  EXPECT_GT(tokenizer.encode("<|eos|>").size(), 1u);
  EXPECT_EQ(tokenizer.encode("<|eos|>", true), Ids{tokenizer.end_id()});
}

TEST(Tokenizer, NamesItsControlTokensAndSize) {
  const Tokenizer tokenizer = base();
  EXPECT_EQ(tokenizer.begin_id(), tokenizer.token_id("<|bos|>"));
  EXPECT_EQ(tokenizer.end_id(), tokenizer.token_id("<|eos|>"));
  EXPECT_EQ(tokenizer.token_id("no such token"), -1);
  EXPECT_EQ(tokenizer.vocabulary_size(),
            static_cast<int64_t>(base_json()["model"]["vocab"].size()));
  EXPECT_EQ(tokenizer.fingerprint(), base().fingerprint());
  Json other = base_json();
  other["version"] = "1.1";
  EXPECT_NE(tokenizer.fingerprint(), load(other).fingerprint());
  EXPECT_EQ(tokenizer.decode({-100, 1 << 30}), "");
}

TEST(Tokenizer, MissingControlTokenIsAnError) {
  Json json = base_json();
  json["added_tokens"] = Json::array();
  for (const char* token : {"<|bos|>", "<|eos|>", "<|pad|>"}) json["model"]["vocab"].erase(token);
  const Tokenizer tokenizer = load(json);
  EXPECT_THROW(tokenizer.begin_id(), DataError);
  EXPECT_THROW(tokenizer.end_id(), DataError);
}

TEST(Tokenizer, MergesAsStringsEqualMergesAsPairs) {
  Json json = base_json();
  for (Json& merge : json["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const std::string text = "The retriever reads a question, and the answer is compared.";
  EXPECT_EQ(load(json).encode(text), base().encode(text));
}

TEST(Tokenizer, MalformedFilesAreNamed) {
  EXPECT_HAS(error_of("{\"model\": "), "test.json: invalid JSON (column ");
  EXPECT_HAS(error_of("[]"), "is an object");
  EXPECT_HAS(error_of("{\"model\":1,\"model\":2}"), "test.json: key 'model' appears twice");
  EXPECT_HAS(error_of("{\"\xff\":1}"), "test.json: invalid UTF-8");
  EXPECT_HAS(error_of(std::string(100000, '[')), "test.json: nested over 32 levels");
  EXPECT_HAS(error_of("{\"normalizer\":{\"type\":\"a\\nb\"}}"), "normalizer a?b is not supported");
  EXPECT_LT(error_after([](Json& j) { j["model"]["type"] = std::string(1 << 20, 'x'); }).size(),
            400u);
  EXPECT_HAS(error_of("{}"), "model is missing");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["vocab"]["new"] = 5; }), "id 5 belongs to both");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["vocab"]["new"] = -1; }), "model.vocab['new']");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["vocab"]["new"] = "7"; }), "expected a token id");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["vocab"]["new"] = 16777216; }),
             "expected a token id from 0 to 16777215");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["new"] = 16777215; }), "no error");
  EXPECT_HAS(error_after([](Json& j) {
               j["model"]["merges"].push_back({"a", "absent"});
             }),
             "token 'absent' is not in");
  EXPECT_HAS(error_after([](Json& j) {
               j["model"]["merges"].push_back({"#", "#"});
             }),
             "token '##' is not in");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["merges"].push_back("a b c"); }),
             "got \"a b c\"");
  EXPECT_HAS(error_after([](Json& j) { j["added_tokens"][0]["id"] = 9; }),
             "has id 9, but 0 in model.vocab");
  EXPECT_HAS(error_after([](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }),
             "twice");
  EXPECT_HAS(error_after([](Json& j) { j["added_tokens"][0].erase("id"); }),
             "added_tokens[0].id is missing");
}

TEST(Tokenizer, UnsupportedComponentsAreNamed) {
  const auto pre_tokenizer = [](const Json& step) {
    return error_after([&](Json& j) { j["pre_tokenizer"] = step; });
  };
  const auto split = [&](const std::string& regex, const char* behavior = "Isolated") {
    return pre_tokenizer(
        {{"type", "Sequence"},
         {"pretokenizers",
          Json::array({{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", behavior}},
                       {{"type", "ByteLevel"}, {"add_prefix_space", false}}})}});
  };
  EXPECT_HAS(pre_tokenizer({{"type", "Metaspace"}}), "Metaspace is not supported");
  EXPECT_HAS(pre_tokenizer(nullptr), "pre_tokenizer is null");
  EXPECT_HAS(pre_tokenizer({{"type", "Digits"}, {"individual_digits", true}}), "has no ByteLevel");
  EXPECT_EQ(split(R"(\s+|[^\s\d]+|\d{1,3})"), "no error");
  EXPECT_HAS(split("(a"), "does not compile");
  EXPECT_HAS(split(R"(\h+)"), "the escape \\h");
  EXPECT_HAS(split("[a-z&&[^b]]"), "is not supported");
  EXPECT_HAS(split("(?m:.)"), "the flag 'm'");
  EXPECT_HAS(split("a{1,2}+"), "'+' after {...}");
  EXPECT_HAS(split("a", "Sometimes"), "behavior Sometimes");
  EXPECT_HAS(error_after([](Json& j) {
               j["normalizer"] = {{"type", "NFC"}};
             }),
             "normalizer NFC is not supported");
  EXPECT_HAS(error_after([](Json& j) {
               j["decoder"] = {{"type", "WordPiece"}};
             }),
             "decoder WordPiece");
  EXPECT_HAS(error_after([](Json& j) { j["decoder"] = nullptr; }), "decoder null");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["type"] = "Unigram"; }), "model Unigram");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["byte_fallback"] = true; }), "byte_fallback");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["dropout"] = 0.1; }), "dropout");
  EXPECT_HAS(error_after([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
             "end_of_word_suffix");
  EXPECT_HAS(error_after([](Json& j) { j["added_tokens"][0]["single_word"] = true; }),
             "single_word");
}

TEST(Tokenizer, BacktrackingWithoutEndIsAnError) {
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a+)+(a+)+(a+)+$"}}}, {"behavior", "Isolated"}};
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  Json json = base_json();
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", Json::array({split, byte_level})}};
  const Tokenizer tokenizer = load(json);
  EXPECT_THROW(tokenizer.encode(std::string(200, 'a') + "b"), DataError);
}

TEST(Tokenizer, LongWordsAndRunsOfBlanksEncode) {
  const Tokenizer tokenizer = base();
  std::string text = std::string(200000, 't') + std::string(200000, ' ') + "x";
  for (int i = 0; i < 100000; ++i) text += "\xE4\xB8\xAD";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = base();
  std::string text;
  for (int i = 0; i < 200; ++i) text += concat("The reader attends inside cluster ", i, ". ");
  const Ids expected = tokenizer.encode(text);
  std::vector<Ids> got(4);
  std::vector<std::thread> threads;
  for (Ids& ids : got) threads.emplace_back([&] { ids = tokenizer.encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& ids : got) EXPECT_EQ(ids, expected);
}

std::vector<std::string> syllable_words() {
  std::vector<std::string> syllables;
  for (const char c : std::string("bdfghjklmnprstvz")) {
    for (const char v : std::string("aeiou")) syllables.push_back({c, v});
  }
  std::vector<std::string> words;
  for (size_t i = 0; i < 900; ++i) {
    words.push_back(syllables[i * 7 % syllables.size()] +
                    syllables[(i * 13 + i / 80) % syllables.size()]);
  }
  return words;
}

TEST(WordTokenizer, EveryWordIsOneToken) {
  std::vector<std::string> words = syllable_words();
  for (const char* word :
       {"the", "there",       "her", "he",  "In", "in",    "colour", "city",  ".",
        "?",   ";",           ":",   "42",  "x1", "don't", "e.g.",   "e.g.x", "<P>",
        "a_b", "caf\xC3\xA9", "-->", "[x]", "\\", "^",     "tata",   "aaaa",  "a"}) {
    words.push_back(word);
  }
  const std::string json = build_word_tokenizer(words, {"ka", "to", "tata", "ta"});
  const Tokenizer tokenizer = Tokenizer::from_json(json, "words.json");
  std::string text;
  std::set<std::string> distinct(words.begin(), words.end());
  for (const std::string& word : words) {
    const Ids ids = tokenizer.encode(" " + word);
    ASSERT_EQ(ids.size(), 1u) << word;
    EXPECT_EQ(tokenizer.decode(ids), " " + word);
    text += " " + word;
  }
  EXPECT_EQ(tokenizer.encode(text).size(), words.size());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  const int64_t pieces = 4;  // ka, to, ta, tata
  EXPECT_EQ(tokenizer.vocabulary_size(), 3 + 256 + pieces + static_cast<int64_t>(distinct.size()));
}

TEST(WordTokenizer, OtherTextIsPiecesAndBytes) {
  const Tokenizer tokenizer =
      Tokenizer::from_json(build_word_tokenizer({"kato"}, {"ka", "to"}), "words.json");
  EXPECT_EQ(tokenizer.encode("kato"), (Ids{tokenizer.token_id("ka"), tokenizer.token_id("to")}));
  EXPECT_EQ(tokenizer.encode(" kato,").size(), 2u);  // punctuation is a word of its own
  EXPECT_EQ(tokenizer.encode(" zu").size(), 3u);
  const std::string text = "any \xE6\x96\x87 text\n  at all";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(WordTokenizer, LaterPiecesNeverChangeEarlierOnes) {
  const std::vector<std::string> pieces = {"tata", "atat", "aaaa",   "kata",
                                           "taka", "aka",  "ababab", "bab"};
  const Tokenizer tokenizer = Tokenizer::from_json(build_word_tokenizer({}, pieces), "words.json");
  Json json = Json::parse(build_word_tokenizer({}, pieces));
  json["model"]["ignore_merges"] = false;  // by their merges alone
  const Tokenizer by_merges = load(json);
  for (const std::string& piece : pieces) {
    EXPECT_EQ(tokenizer.encode(piece).size(), 1u) << piece;
    EXPECT_EQ(by_merges.encode(piece).size(), 1u) << piece;
  }
}

TEST(WordTokenizer, HasControlTokensAndRefusesWhatIsNoWord) {
  const Tokenizer tokenizer = Tokenizer::from_json(build_word_tokenizer({"x"}), "words.json");
  EXPECT_EQ(tokenizer.token_id("<|pad|>"), 0);
  EXPECT_EQ(tokenizer.begin_id(), 1);
  EXPECT_EQ(tokenizer.end_id(), 2);
  for (const char* word : {"", "two words", "tab\t", "\xC2\xA0", "\xFF"}) {
    EXPECT_THROW(build_word_tokenizer({word}), DataError) << word;
    EXPECT_THROW(build_word_tokenizer({}, {word}), DataError) << word;
  }
}

}  // namespace
}  // namespace dsrsq
