#include <algorithm>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/json.h"
#include "tokenizer_spec.h"

namespace dsrsq::text {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using Json = nlohmann::json;

constexpr uint64_t kLongestWord = 1 << 20;  // characters

int32_t read_token_id(const Json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMaximumTokenId}) {
    throw DataError(concat(where, ": expected a token id from 0 to ", uint64_t{kMaximumTokenId},
                           ", got ", value.dump().substr(0, 80)));
  }
  return value.get<int32_t>();
}

class SpecParser {
 public:
  explicit SpecParser(const std::string& name) : name_(name) {}

  TokenizerSpec parse(const std::string& text) {
    const Json root = read_tokenizer_json(text, name_);
    if (!root.is_object()) fail("a tokenizer.json is an object, got ", root.type_name());
    const auto model = root.find("model");
    const bool word_piece =
        model != root.end() && model->is_object() && model->value("type", Json()) == "WordPiece";
    if (word_piece) {
      parse_word_piece(*model);
    } else {
      require_absent(root, "normalizer");
      parse_model(member(root, "", "model"));
    }
    if (root.contains("added_tokens")) parse_added_tokens(root.at("added_tokens"));
    check_ids();
    if (word_piece) {
      parse_bert_steps(root);
      return std::move(spec_);
    }
    parse_pre_tokenizer_root(root);
    const Json& decoder = member(root, "", "decoder");
    if (decoder.is_null() || type_of(decoder, "decoder") != "ByteLevel") {
      fail("decoder ", decoder.is_null() ? "null" : type_of(decoder, "decoder"),
           " is not supported, only ByteLevel");
    }
    return std::move(spec_);
  }

 private:
  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    constexpr size_t kLongest = 300;  // what the file says may be megabytes, or many lines
    std::string what = concat(parts...);
    if (what.size() > kLongest) what = what.substr(0, kLongest) + "...";
    std::replace_if(
        what.begin(), what.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
    throw DataError(concat(name_, ": ", what));
  }

  const Json& member(const Json& object, const std::string& path, const char* key) const {
    if (!object.is_object()) fail(path, ": expected an object, got ", object.type_name());
    const auto it = object.find(key);
    if (it == object.end()) fail(path, path.empty() ? "" : ".", key, " is missing");
    return *it;
  }

  bool boolean(const Json& object, const std::string& path, const char* key, bool fallback) const {
    const auto it = object.find(key);
    if (it == object.end() || it->is_null()) return fallback;
    if (!it->is_boolean()) fail(path, ".", key, ": expected true or false, got ", it->dump());
    return it->get<bool>();
  }

  std::string string(const Json& value, const std::string& path) const {
    if (!value.is_string()) fail(path, ": expected a string, got ", value.dump().substr(0, 80));
    return value.get<std::string>();
  }

  std::string type_of(const Json& object, const std::string& path) const {
    return string(member(object, path, "type"), path + ".type");
  }

  int32_t token_id(const Json& value, const std::string& path) const {
    return read_token_id(value, concat(name_, ": ", path));
  }

  void require_absent(const Json& root, const char* key) const {
    const auto it = root.find(key);
    if (it != root.end() && !it->is_null())
      fail(key, " ", type_of(*it, key), " is not supported, only null");
  }

  void parse_model(const Json& model) {
    // Files older than tokenizers 0.9 name no type.
    const std::string type = model.contains("type") ? type_of(model, "model") : "BPE";
    if (type != "BPE") fail("model ", type, " is not supported, only byte-level BPE and WordPiece");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto it = model.find(key);
      if (it != model.end() && !it->is_null() && *it != "")
        fail("model.", key, " ", it->dump(), " is not supported");
    }
    const auto dropout = model.find("dropout");
    if (dropout != model.end() && !dropout->is_null() && *dropout != 0.0) {
      fail("model.dropout ", dropout->dump(), " is not supported: ids would be random");
    }
    if (boolean(model, "model", "byte_fallback", false))
      fail("model.byte_fallback is not supported");
    spec_.fuse_unknown = boolean(model, "model", "fuse_unk", false);
    spec_.ignore_merges = boolean(model, "model", "ignore_merges", false);
    parse_vocabulary_object(member(model, "model", "vocab"), name_ + ": model.vocab", spec_);
    parse_merges(member(model, "model", "merges"));
    const auto unknown = model.find("unk_token");
    if (unknown != model.end() && !unknown->is_null()) {
      spec_.unknown = find_token(string(*unknown, "model.unk_token"), "model.unk_token");
    }
  }

  void parse_word_piece(const Json& model) {
    spec_.word_piece.emplace();
    WordPieceSpec& pieces = *spec_.word_piece;
    parse_vocabulary_object(member(model, "model", "vocab"), name_ + ": model.vocab", spec_);
    pieces.unknown =
        find_token(string(member(model, "model", "unk_token"), "model.unk_token"), "model.vocab");
    const auto prefix = model.find("continuing_subword_prefix");
    if (prefix != model.end()) pieces.prefix = string(*prefix, "model.continuing_subword_prefix");
    const auto longest = model.find("max_input_chars_per_word");
    if (longest == model.end()) return;
    if (!longest->is_number_unsigned() || longest->get<uint64_t>() > kLongestWord)
      fail("model.max_input_chars_per_word: expected a number up to ", kLongestWord, ", got ",
           longest->dump());
    pieces.maximum_word_characters = longest->get<int64_t>();
  }

  // What stands around a WordPiece model, BERT's and no other.
  void parse_bert_steps(const Json& root) {
    const auto require = [&](const char* key, const char* type) -> const Json& {
      const Json& step = member(root, "", key);
      if (step.is_null() || type_of(step, key) != type)
        fail(key, " ", step.is_null() ? "null" : type_of(step, key),
             " is not supported for WordPiece, only ", type);
      return step;
    };
    const Json& step = require("normalizer", "BertNormalizer");
    BertNormalizer& normalizer = spec_.word_piece->normalizer;
    normalizer.clean_text = boolean(step, "normalizer", "clean_text", true);
    normalizer.handle_chinese_chars = boolean(step, "normalizer", "handle_chinese_chars", true);
    normalizer.lowercase = boolean(step, "normalizer", "lowercase", true);
    normalizer.strip_accents = boolean(step, "normalizer", "strip_accents", normalizer.lowercase);
    require("pre_tokenizer", "BertPreTokenizer");
    const Json& decoder = require("decoder", "WordPiece");
    const std::string prefix = string(member(decoder, "decoder", "prefix"), "decoder.prefix");
    if (prefix != spec_.word_piece->prefix)
      fail("decoder.prefix: expected ", quote(spec_.word_piece->prefix), " as in model, got ",
           quote(prefix));
    spec_.word_piece->decode_cleanup = boolean(decoder, "decoder", "cleanup", true);
    for (const AddedToken& token : spec_.added) {
      if (token.normalized)
        fail("added token ", quote(token.content), ": normalized is not supported for WordPiece");
    }
  }

  int32_t find_token(const std::string& token, const std::string& path) const {
    const auto it = spec_.vocabulary.find(token);
    if (it == spec_.vocabulary.end())
      fail(path, ": token ", quote(token), " is not in model.vocab");
    return it->second;
  }

  void parse_merges(const Json& merges) {
    if (!merges.is_array()) fail("model.merges: expected a list, got ", merges.type_name());
    spec_.merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const std::string path = concat("model.merges[", i, "]");
      const auto [left, right] = merge_sides(merges[i], path);
      spec_.merges.push_back(
          {find_token(left, path), find_token(right, path), find_token(left + right, path)});
    }
  }

  std::pair<std::string, std::string> merge_sides(const Json& merge,
                                                  const std::string& path) const {
    if (merge.is_array() && merge.size() == 2)
      return {string(merge[0], path), string(merge[1], path)};
    if (merge.is_string()) {
      const std::string text = merge.get<std::string>();
      const size_t blank = text.find(' ');
      if (blank != std::string::npos && text.find(' ', blank + 1) == std::string::npos) {
        return {text.substr(0, blank), text.substr(blank + 1)};
      }
    }
    fail(path, ": expected \"left right\" or [\"left\", \"right\"], got ",
         merge.dump().substr(0, 80));
  }

  void parse_added_tokens(const Json& tokens) {
    if (!tokens.is_array()) fail("added_tokens: expected a list, got ", tokens.type_name());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const std::string path = concat("added_tokens[", i, "]");
      AddedToken token;
      token.content = string(member(tokens[i], path, "content"), path + ".content");
      token.id = token_id(member(tokens[i], path, "id"), path + ".id");
      token.special = boolean(tokens[i], path, "special", false);
      token.strip_left = boolean(tokens[i], path, "lstrip", false);
      token.strip_right = boolean(tokens[i], path, "rstrip", false);
      token.normalized = boolean(tokens[i], path, "normalized", !token.special);
      if (boolean(tokens[i], path, "single_word", false))
        fail(path, ".single_word is not supported");
      if (token.content.empty()) fail(path, ".content is empty");
      spec_.added.push_back(std::move(token));
    }
  }

  // Every id belongs to one token; a token that is both added and in the vocabulary has one id.
  void check_ids() const {
    std::unordered_map<int32_t, std::string> owner;
    owner.reserve(spec_.vocabulary.size());
    for (const auto& [token, id] : spec_.vocabulary) check_owner(owner, id, token);
    std::set<std::string> contents;
    for (const AddedToken& token : spec_.added) {
      if (!contents.insert(token.content).second)
        fail("added_tokens has ", quote(token.content), " twice");
      const auto it = spec_.vocabulary.find(token.content);
      if (it == spec_.vocabulary.end()) {
        check_owner(owner, token.id, token.content);
      } else if (it->second != token.id) {
        fail("added token ", quote(token.content), " has id ", token.id, ", but ", it->second,
             " in model.vocab");
      }
    }
  }

  void check_owner(std::unordered_map<int32_t, std::string>& owner, int32_t id,
                   const std::string& token) const {
    const auto [it, inserted] = owner.emplace(id, token);
    if (!inserted) fail("id ", id, " belongs to both ", quote(it->second), " and ", quote(token));
  }

  void parse_pre_tokenizer_root(const Json& root) {
    const auto it = root.find("pre_tokenizer");
    if (it == root.end() || it->is_null())
      fail("pre_tokenizer is null, but ids of bytes need ByteLevel");
    parse_pre_tokenizer(*it, "pre_tokenizer");
    if (!byte_level_seen_)
      fail("pre_tokenizer has no ByteLevel, without which the model is not byte-level BPE");
  }

  void parse_pre_tokenizer(const Json& step, const std::string& path) {
    const std::string type = type_of(step, path);
    if (type == "Sequence") {
      const Json& steps = member(step, path, "pretokenizers");
      if (!steps.is_array()) fail(path, ".pretokenizers: expected a list, got ", steps.type_name());
      for (size_t i = 0; i < steps.size(); ++i)
        parse_pre_tokenizer(steps[i], concat(path, ".pretokenizers[", i, "]"));
      return;
    }
    if (byte_level_seen_) fail(path, ": ", type, " after ByteLevel is not supported");
    if (type == "ByteLevel") {
      byte_level_seen_ = true;
      spec_.pre_tokenizer.add_prefix_space = boolean(step, path, "add_prefix_space", true);
      if (boolean(step, path, "use_regex", true)) {
        spec_.pre_tokenizer.byte_level_split =
            SplitStep{Pattern(kGpt2Pattern, Syntax::kOniguruma, where(path))};
      }
    } else if (type == "Digits") {
      const bool individual = boolean(step, path, "individual_digits", false);
      spec_.pre_tokenizer.splits.push_back(
          {Pattern(R"(\p{N})", Syntax::kOniguruma, where(path)),
           individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
    } else if (type == "Split") {
      parse_split(step, path);
    } else {
      fail(path, ": ", type, " is not supported, only ByteLevel, Split, Digits and Sequence");
    }
  }

  void parse_split(const Json& step, const std::string& path) {
    const Json& pattern = member(step, path, "pattern");
    const std::string pattern_path = path + ".pattern";
    if (!pattern.is_object() || pattern.size() != 1 ||
        !(pattern.contains("Regex") || pattern.contains("String"))) {
      fail(pattern_path, ": expected {\"Regex\": ...} or {\"String\": ...}, got ",
           pattern.dump().substr(0, 80));
    }
    const bool regex = pattern.contains("Regex");
    const std::string expression = string(pattern.front(), pattern_path);
    if (expression.empty()) fail(pattern_path, " is empty");
    spec_.pre_tokenizer.splits.push_back(
        {Pattern(expression, regex ? Syntax::kOniguruma : Syntax::kLiteral, where(pattern_path)),
         parse_behavior(string(member(step, path, "behavior"), path + ".behavior"), path),
         boolean(step, path, "invert", false)});
  }

  SplitBehavior parse_behavior(const std::string& behavior, const std::string& path) const {
    if (behavior == "Isolated") return SplitBehavior::kIsolated;
    if (behavior == "Removed") return SplitBehavior::kRemoved;
    if (behavior == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
    if (behavior == "MergedWithNext") return SplitBehavior::kMergedWithNext;
    if (behavior == "Contiguous") return SplitBehavior::kContiguous;
    fail(path, ".behavior ", behavior, " is not known");
  }

  std::string where(const std::string& path) const { return concat(name_, ": ", path); }

  const std::string& name_;
  TokenizerSpec spec_;
  bool byte_level_seen_ = false;
};

}  // namespace

Json read_tokenizer_json(const std::string& text, const std::string& name) {
  constexpr JsonLimits kLimits{/*depth=*/32, /*values=*/8'000'000};  // the largest known have 2
  try {
    return parse_json(text, kLimits);
  } catch (const JsonError& error) {
    throw DataError(concat(name, ": ", error.what()));
  }
}

void parse_vocabulary_object(const Json& vocabulary, const std::string& name, TokenizerSpec& spec) {
  if (!vocabulary.is_object())
    throw DataError(concat(name, ": expected an object, got ", vocabulary.type_name()));
  if (vocabulary.empty()) throw DataError(concat(name, " is empty"));
  spec.vocabulary.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items())
    spec.vocabulary.emplace(token, read_token_id(id, concat(name, "[", quote(token), "]")));
}

TokenizerSpec parse_tokenizer_json(const std::string& json, const std::string& name) {
  return SpecParser(name).parse(json);
}

}  // namespace dsrsq::text
