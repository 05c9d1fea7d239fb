// GPT-2's two files (encoder.json and vocab.bpe), against the Python package `tokenizers`: its ids
// for a small vocabulary are committed (make_golden.py), those of GPT-2's own are asked for.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

const std::string kGolden = std::string(DSRSQ_SOURCE_DIR) + "/tests/text/golden/";

Json read_json(const std::string& path) { return Json::parse(read_file(path)); }

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

std::string to_hex(const std::string& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    out += kDigits[static_cast<unsigned char>(c) >> 4];
    out += kDigits[c & 15];
  }
  return out;
}

std::vector<std::string> golden_texts() {
  const Json golden = read_json(kGolden + "tokenizer_golden.json");
  std::vector<std::string> texts;
  for (const Json& hex : golden["texts"]) texts.push_back(from_hex(hex));
  return texts;
}

class TokenizerPair : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-pair-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  void put(const std::string& name, const std::string& content) const {
    fs::create_directories(fs::path(at(name)).parent_path());
    std::ofstream(at(name), std::ios::binary) << content;
  }

  fs::path folder_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "expected '" << part << "' in: " << text;
}

// A vocabulary of a few tokens, which the pre-tokenizer's pieces "ab", " ab" run through.
const char* const kVocabulary = R"({"a":0,"b":1,"Ġ":2,"ab":3,"Ġab":4,"<s>":5,"<b":6})";
const char* const kMerges = "#version: 0.2\na b\nĠ ab\n";

Tokenizer pair(const std::string& vocabulary, const std::string& merges) {
  return Tokenizer::from_pair(vocabulary, merges, "v.json", "m.txt");
}

TEST_F(TokenizerPair, IdsAndDecodedTextEqualPython) {
  const Json golden = read_json(kGolden + "pair_golden.json");
  const std::vector<std::string> texts = golden_texts();
  const Tokenizer tokenizer = Tokenizer::from_file(kGolden + "pair");
  EXPECT_EQ(tokenizer.vocabulary_size(), golden["size"].get<int64_t>());
  ASSERT_EQ(golden["ids"].size(), texts.size());
  size_t tokens = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(concat("text ", i, ": ", texts[i]));
    EXPECT_EQ(tokenizer.encode(texts[i]), golden["ids"][i].get<Ids>());
    const Ids special = golden["ids_special"][i].get<Ids>();
    EXPECT_EQ(tokenizer.encode(texts[i], true), special);
    EXPECT_EQ(tokenizer.decode(special), golden["decoded"][i].get<std::string>());
    tokens += special.size();
  }
  EXPECT_GT(tokens, 800u);
}

TEST_F(TokenizerPair, FolderAndEitherFileAreTheSameTokenizer) {
  const std::string vocabulary = read_file(kGolden + "pair/vocab.json");
  const std::string merges = read_file(kGolden + "pair/merges.txt");
  put("gpt2/encoder.json", vocabulary);
  put("gpt2/vocab.bpe", merges);
  put("hf/vocab.json", vocabulary);
  put("hf/merges.txt", merges);
  const std::string text = "The retriever reads a question, don't you think?";
  const Tokenizer expected = Tokenizer::from_file(kGolden + "pair");
  ASSERT_GT(expected.encode(text).size(), 5u);
  for (const char* path : {"gpt2", "gpt2/", "gpt2/encoder.json", "gpt2/vocab.bpe", "hf",
                           "hf/vocab.json", "hf/merges.txt"}) {
    const Tokenizer tokenizer = Tokenizer::from_file(at(path));
    EXPECT_EQ(tokenizer.encode(text), expected.encode(text)) << path;
    EXPECT_EQ(tokenizer.fingerprint(), expected.fingerprint()) << path;
  }
  const fs::path before = fs::current_path();
  fs::current_path(at("gpt2"));  // a name without a folder
  EXPECT_EQ(Tokenizer::from_file("vocab.bpe").fingerprint(), expected.fingerprint());
  fs::current_path(before);
  // A tokenizer.json says more than the pair beside it.
  fs::copy(kGolden + "tokenizer.json", at("hf/tokenizer.json"));
  EXPECT_EQ(Tokenizer::from_file(at("hf")).fingerprint(),
            Tokenizer::from_file(kGolden + "tokenizer.json").fingerprint());
}

TEST_F(TokenizerPair, FingerprintIsOfBothFiles) {
  const std::string fingerprint = pair(kVocabulary, kMerges).fingerprint();
  EXPECT_EQ(fingerprint, sha256_hex(sha256_hex(kVocabulary) + sha256_hex(kMerges)));
  EXPECT_NE(fingerprint, pair(std::string(kVocabulary) + " ", kMerges).fingerprint());
  EXPECT_NE(fingerprint, pair(kVocabulary, std::string(kMerges) + "a b\n").fingerprint());
}

TEST_F(TokenizerPair, ControlTokensAreThoseThatNoMergeMakes) {
  const Tokenizer tokenizer = pair(kVocabulary, kMerges);
  EXPECT_EQ(tokenizer.begin_id(), 5);
  EXPECT_EQ(tokenizer.encode("ab<s> ab", true), (Ids{3, 5, 4}));
  EXPECT_EQ(tokenizer.encode("ab<s> ab"), (Ids{3, 4}));  // "<s>" has no bytes here
  EXPECT_EQ(tokenizer.decode({3, 5, 6}), "ab<b");
  EXPECT_EQ(tokenizer.decode({3, 5, 6}, true), "ab<s><b");
  // A merge makes <s>: it is text.
  const Tokenizer text = pair(R"({"<":0,"s":1,">":2,"s>":3,"<s>":4})", "s >\n< s>\n");
  EXPECT_EQ(text.decode({4}), "<s>");
}

TEST_F(TokenizerPair, MergesMayEndInAnyWay) {
  const Ids expected{4};
  for (const char* merges :
       {"a b\nĠ ab", "a b\r\nĠ ab\r\n", "#version: 0.2\n#version: 1\na b\nĠ ab\n"})
    EXPECT_EQ(pair(kVocabulary, merges).encode(" ab"), expected) << merges;
  EXPECT_EQ(pair(kVocabulary, "").encode(" ab"), (Ids{2, 0, 1}));
}

TEST_F(TokenizerPair, BrokenFilesAreNamed) {
  const auto vocabulary_error = [](const std::string& vocabulary) {
    return error_of([&] { pair(vocabulary, kMerges); });
  };
  const auto merges_error = [](const std::string& merges) {
    return error_of([&] { pair(kVocabulary, merges); });
  };
  expect_contains(merges_error("#version: 0.2\na b\nb x\n"),
                  "m.txt:3: token 'x' is not in v.json; are the two files of one tokenizer?");
  expect_contains(merges_error("b a\n"), "m.txt:1: token 'ba' is not in v.json");
  for (const char* line : {"ab", "a  b", "a b ", " a b", "a b c", "", "# a comment"}) {
    expect_contains(merges_error(concat("a b\n", line, "\n")),
                    concat("m.txt:2: expected two tokens with a blank between them, got '", line));
  }
  expect_contains(merges_error("a b\n\xff\x01 b\n"), "m.txt:2: token '");
  expect_contains(merges_error(std::string(1 << 20, 'x')), "xxx...'");
  expect_contains(vocabulary_error(R"({"a":0,"b":1,"ab":1})"),
                  "v.json: id 1 belongs to both 'ab' and 'b'");
  expect_contains(vocabulary_error(R"({"a":0,"b":1,"ab":3})"),
                  "v.json: no token has id 2, but 3 tokens need the ids 0 to 2");
  expect_contains(vocabulary_error(R"({"a":1,"b":2})"), "no token has id 0");
  expect_contains(vocabulary_error(R"({"a":0,"b":1,"a":2})"), "v.json: key 'a' appears twice");
  expect_contains(vocabulary_error(R"({"a":16777216})"),
                  "v.json['a']: expected a token id from 0 to 16777215, got 16777216");
  for (const char* id : {"-1", "1.0", "\"1\"", "null", "[]", "true"})
    expect_contains(vocabulary_error(concat("{\"a\":", id, "}")), "expected a token id");
  expect_contains(vocabulary_error("{}"), "v.json is empty");
  expect_contains(vocabulary_error("[]"), "v.json: expected an object, got array");
  expect_contains(vocabulary_error("{\"a\":0"), "v.json: invalid JSON");
  expect_contains(vocabulary_error("{\"\xff\":0}"), "v.json: invalid UTF-8");
}

TEST_F(TokenizerPair, MissingAndOversizedFilesAreNamed) {
  const auto file_error = [&](const std::string& name) {
    return error_of([&] { Tokenizer::from_file(at(name)); });
  };
  fs::create_directory(at("empty"));
  expect_contains(file_error("empty"),
                  "no tokenizer in this folder; expected tokenizer.json, or encoder.json and "
                  "vocab.bpe, or vocab.json and merges.txt");
  for (const auto& [name, other] : {std::pair("encoder.json", "vocab.bpe"),
                                    {"vocab.bpe", "encoder.json"},
                                    {"vocab.json", "merges.txt"},
                                    {"merges.txt", "vocab.json"}}) {
    const std::string folder = concat("only-", name);
    put(folder + "/" + name, "{}");
    for (const std::string& path : {folder, folder + "/" + name}) {
      expect_contains(file_error(path), concat(folder, "/", name,
                                               ": is one of two files, and the "
                                               "other, ",
                                               at(folder), "/", other, ", is missing"));
    }
  }
  expect_contains(file_error("none/vocab.bpe"), "none/vocab.bpe: cannot be opened");
  expect_contains(file_error("none.json"), "none.json: cannot be opened");
  put("large/encoder.json", "{}");
  put("large/vocab.bpe", "");
  fs::resize_file(at("large/vocab.bpe"), (size_t{128} << 20) + 1);  // a sparse file
  expect_contains(file_error("large"), "vocab.bpe: larger than the 134217728 bytes expected");
}

fs::path gpt2_folder() {
  const char* data = std::getenv("DSRSQ_SHARED_DATA");
  return fs::path(data != nullptr ? data : std::string(DSRSQ_SOURCE_DIR) + "/../shared/data") /
         "gpt2_bpe";
}

TEST_F(TokenizerPair, Gpt2sOwnFiles) {
  if (!fs::exists(gpt2_folder())) GTEST_SKIP() << "no shared data at " << gpt2_folder();
  const Tokenizer tokenizer = Tokenizer::from_file(gpt2_folder().string());
  EXPECT_EQ(tokenizer.vocabulary_size(), 50257);
  EXPECT_EQ(tokenizer.begin_id(), 50256);
  EXPECT_EQ(tokenizer.end_id(), 50256);
  EXPECT_EQ(tokenizer.encode("Hello world"), (Ids{15496, 995}));  // as in GPT-2's own examples
  EXPECT_EQ(tokenizer.encode("x<|endoftext|>", true), (Ids{87, 50256}));
  EXPECT_EQ(tokenizer.decode({15496, 50256}), "Hello");
}

// Every text of the golden file and 200 mixes of them, against the package itself.
TEST_F(TokenizerPair, Gpt2sIdsEqualPython) {
  if (!fs::exists(gpt2_folder())) GTEST_SKIP() << "no shared data at " << gpt2_folder();
  const std::string python = std::string(DSRSQ_SOURCE_DIR) + "/.venv/bin/python";
  if (std::system(concat(python, " -c 'import tokenizers' 2> ", at("err")).c_str()) != 0)
    GTEST_SKIP() << "no Python with the tokenizers package in .venv";
  std::vector<std::string> texts = golden_texts();
  const size_t single = texts.size();
  uint64_t state = 9;
  for (int i = 0; i < 200; ++i) {
    std::string mix;
    for (int k = 0; k < 6; ++k) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      mix += texts[(state >> 33) % single];
    }
    texts.push_back(mix);
  }
  Json hex = Json::array();
  for (const std::string& text : texts) hex.push_back(to_hex(text));
  put("texts.json", hex.dump());
  put("ids.py",
      "import json, sys\n"
      "from tokenizers import Tokenizer, models, pre_tokenizers\n"
      "folder, texts, out = sys.argv[1:]\n"
      "t = Tokenizer(models.BPE.from_file(folder + '/encoder.json', folder + '/vocab.bpe'))\n"
      "t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)\n"
      "texts = [bytes.fromhex(h).decode('utf-8', errors='replace') for h in "
      "json.load(open(texts))]\n"
      "json.dump([t.encode(x).ids for x in texts], open(out, 'w'))\n");
  ASSERT_EQ(std::system(concat(python, " ", at("ids.py"), " ", gpt2_folder().string(), " ",
                               at("texts.json"), " ", at("ids.json"))
                            .c_str()),
            0);
  const Json expected = read_json(at("ids.json"));
  const Tokenizer tokenizer = Tokenizer::from_file((gpt2_folder() / "vocab.bpe").string());
  ASSERT_EQ(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const Ids ids = tokenizer.encode(texts[i]);
    ASSERT_EQ(ids, expected[i].get<Ids>()) << texts[i];
    std::vector<Tokenizer::Span> spans;
    tokenizer.encode_with_spans(texts[i], spans);
    if (!spans.empty()) {
      EXPECT_EQ(spans.front().begin, 0);
      EXPECT_EQ(spans.back().end, static_cast<int64_t>(texts[i].size()));
    }
  }
}

}  // namespace
}  // namespace dsrsq
