#include <algorithm>
#include <cctype>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "dsrsq/text/tokenizer.h"
#include "pre_tokenizer.h"
#include "utf8.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Pair = std::pair<std::string, std::string>;

// A run of letters and digits or a run of anything else, each with the blank in front of it; then
// white space.
constexpr const char* kWordPattern =
    R"( ?[\p{L}\p{M}\p{N}_]+| ?[^\s\p{L}\p{M}\p{N}_]+|\s+(?!\S)|\s+)";

void check_word(const std::string& word, const char* kind) {
  if (word.empty()) throw DataError(concat("word tokenizer: an empty ", kind));
  for (size_t at = 0; at < word.size();) {
    const text::Decoded c = text::decode_utf8(word, at);
    if (!c.valid)
      throw DataError(concat("word tokenizer: ", kind, " is not valid UTF-8 at its byte ", at));
    at += c.length;
  }
  text::Searcher searcher;
  static const text::Pattern space(R"(\s)", text::Syntax::kOniguruma, "word tokenizer");
  if (searcher.find(space, word, 0)) {
    throw DataError(
        concat("word tokenizer: ", kind, " \"", word, "\" holds white space; give its parts"));
  }
}

class WordTokenizerBuilder {
 public:
  WordTokenizerBuilder() {
    for (const char* token : kSpecialTokens) add_token(token);
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      add_token(text::spell_bytes({&byte, 1}));
    }
  }

  // Merges left to right over what earlier merges leave. A new merge ranks behind all earlier ones,
  // so it acts only where they are done: earlier pieces stay as they are.
  void add_piece(const std::string& piece) {
    check_word(piece, "piece");
    std::vector<std::string> symbols = merge(piece);
    while (symbols.size() > 1) {
      const Pair pair(symbols[0], symbols[1]);
      ranks_.emplace(pair, merges_.size());
      merges_.push_back(pair);
      add_token(pair.first + pair.second);
      symbols = merge(piece);  // the new merge may act further right too, as in "tata"
    }
  }

  void add_word(const std::string& word) {
    check_word(word, "word");
    const std::string blank_word = " " + word;
    if (!is_one_run(blank_word)) mixed_.push_back(word);
    add_token(text::spell_bytes(blank_word));
  }

  std::string json() const {
    Json added = Json::array();
    for (const char* token : kSpecialTokens) {
      added.push_back({{"id", vocabulary_.at(token)},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    Json vocabulary = Json::object();
    for (const auto& [token, id] : vocabulary_) vocabulary[token] = id;
    Json merges = Json::array();
    for (const auto& [left, right] : merges_) merges.push_back({left, right});
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", pattern()}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    const Json byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", true},
                             {"use_regex", false}};
    const Json model = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", nullptr},
                        {"continuing_subword_prefix", nullptr},
                        {"end_of_word_suffix", nullptr},
                        {"fuse_unk", false},
                        {"byte_fallback", false},
                        {"ignore_merges", true},
                        {"vocab", vocabulary},
                        {"merges", merges}};
    const Json root = {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", added},
        {"normalizer", nullptr},
        {"pre_tokenizer",
         {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
        {"post_processor", nullptr},
        {"decoder",
         {{"type", "ByteLevel"},
          {"add_prefix_space", true},
          {"trim_offsets", true},
          {"use_regex", true}}},
        {"model", model}};
    return root.dump(1) + "\n";
  }

 private:
  static constexpr const char* kSpecialTokens[] = {"<|pad|>", "<|bos|>", "<|eos|>"};

  void add_token(const std::string& spelled) {
    vocabulary_.emplace(spelled, static_cast<int32_t>(vocabulary_.size()));
  }

  std::vector<std::string> merge(const std::string& piece) const {
    std::vector<std::string> symbols;
    for (const char byte : piece) symbols.push_back(text::spell_bytes({&byte, 1}));
    for (;;) {
      size_t best_rank = merges_.size();
      size_t best = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto it = ranks_.find({symbols[i], symbols[i + 1]});
        if (it != ranks_.end() && it->second < best_rank) {
          best_rank = it->second;
          best = i;
        }
      }
      if (best_rank == merges_.size()) return symbols;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
  }

  bool is_one_run(const std::string& blank_word) {
    const auto match = searcher_.find(runs_, blank_word, 0);
    return match && match->begin == 0 && match->end == blank_word.size();
  }

  // Words that mix letters and punctuation ("e.g.") are alternatives of their own, the longest
  // first.
  std::string pattern() const {
    std::vector<std::string> mixed = mixed_;
    std::sort(mixed.begin(), mixed.end(), [](const std::string& a, const std::string& b) {
      return a.size() != b.size() ? a.size() > b.size() : a < b;
    });
    mixed.erase(std::unique(mixed.begin(), mixed.end()), mixed.end());
    if (mixed.empty()) return kWordPattern;
    std::string alternatives;
    for (const std::string& word : mixed) {
      if (!alternatives.empty()) alternatives += '|';
      for (const char c : word) {
        const bool ascii_punctuation = static_cast<unsigned char>(c) < 0x80 &&
                                       std::ispunct(static_cast<unsigned char>(c)) && c != '_';
        if (ascii_punctuation) alternatives += '\\';
        alternatives += c;
      }
    }
    return concat(" (?:", alternatives, R"()(?![\p{L}\p{M}\p{N}_])|)", kWordPattern);
  }

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::vector<Pair> merges_;
  std::map<Pair, size_t> ranks_;
  std::vector<std::string> mixed_;
  text::Pattern runs_{kWordPattern, text::Syntax::kOniguruma, "word tokenizer"};
  text::Searcher searcher_;
};

}  // namespace

std::string build_word_tokenizer(const std::vector<std::string>& words,
                                 const std::vector<std::string>& pieces) {
  WordTokenizerBuilder builder;
  for (const std::string& piece : pieces) builder.add_piece(piece);
  for (const std::string& word : words) builder.add_word(word);
  return builder.json();
}

}  // namespace dsrsq
