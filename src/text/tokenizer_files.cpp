#include "tokenizer_files.h"

#include <algorithm>
#include <filesystem>
#include <unordered_set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"

namespace dsrsq::text {
namespace {

namespace fs = std::filesystem;

struct PairNames {
  const char* vocabulary;
  const char* merges;
};
// GPT-2's release and Hugging Face's names for the same two formats.
constexpr PairNames kPairs[] = {{"encoder.json", "vocab.bpe"}, {"vocab.json", "merges.txt"}};
constexpr const char* kWholeFile = "tokenizer.json";
constexpr const char* kWordPieces = "vocab.txt";

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The vocabulary alone does not say whether it is of lower-case text; BERT's default is that it is.
TokenizerFiles word_piece_files(const fs::path& vocabulary) {
  TokenizerFiles files;
  files.path = vocabulary.string();
  files.word_pieces = true;
  const fs::path config = vocabulary.parent_path() / "tokenizer_config.json";
  if (!is_there(config)) return files;
  constexpr size_t kMaximumBytes = size_t{1} << 24;
  const nlohmann::json options =
      read_tokenizer_json(read_file(config.string(), kMaximumBytes), config.string());
  const auto lowercase = options.is_object() ? options.find("do_lower_case") : options.end();
  if (lowercase == options.end()) return files;
  if (!lowercase->is_boolean())
    throw DataError(concat(config.string(), ": do_lower_case: expected true or false, got ",
                           lowercase->dump().substr(0, 80)));
  files.lowercase = lowercase->get<bool>();
  return files;
}

TokenizerFiles with_partner(const fs::path& given, const PairNames& names, bool is_vocabulary) {
  const fs::path partner = given.parent_path() / (is_vocabulary ? names.merges : names.vocabulary);
  if (!is_there(given)) return {given.string(), ""};  // opening it gives the reason
  if (!is_there(partner)) {
    throw DataError(concat(given.string(), ": is one of two files, and the other, ",
                           partner.string(), ", is missing; put it there"));
  }
  return is_vocabulary ? TokenizerFiles{given.string(), partner.string()}
                       : TokenizerFiles{partner.string(), given.string()};
}

class PairParser {
 public:
  PairParser(const std::string& vocabulary_name, const std::string& merges_name)
      : vocabulary_name_(vocabulary_name), merges_name_(merges_name) {}

  TokenizerSpec parse(const std::string& vocabulary, const std::string& merges) {
    parse_vocabulary_object(read_tokenizer_json(vocabulary, vocabulary_name_), vocabulary_name_,
                            spec_);
    check_ids_have_no_hole();
    parse_merges(merges);
    find_control_tokens();
    spec_.pre_tokenizer.byte_level_split =
        SplitStep{Pattern(kGpt2Pattern, Syntax::kOniguruma, merges_name_)};
    return std::move(spec_);
  }

 private:
  // The ids of this format are rows of GPT-2's embedding, 0 to n - 1.
  void check_ids_have_no_hole() const {
    std::vector<const std::string*> owners(spec_.vocabulary.size());
    for (const auto& [token, id] : spec_.vocabulary) {
      if (static_cast<size_t>(id) >= owners.size()) continue;  // then another id is missing
      if (owners[id] != nullptr) {
        throw DataError(concat(vocabulary_name_, ": id ", id, " belongs to both ",
                               quote(std::min(*owners[id], token)), " and ",
                               quote(std::max(*owners[id], token))));
      }
      owners[id] = &token;
    }
    for (size_t id = 0; id < owners.size(); ++id) {
      if (owners[id] == nullptr) {
        throw DataError(concat(vocabulary_name_, ": no token has id ", id, ", but ", owners.size(),
                               " tokens need the ids 0 to ", owners.size() - 1));
      }
    }
  }

  void parse_merges(const std::string& text) {
    int64_t number = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t newline = std::min(text.find('\n', begin), text.size());
      std::string_view line(text.data() + begin, newline - begin);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      begin = newline + 1;
      ++number;
      if (line.starts_with("#version")) continue;
      parse_merge(line, concat(merges_name_, ":", number));
    }
  }

  void parse_merge(std::string_view line, const std::string& where) {
    const size_t blank = line.find(' ');
    if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos) {
      throw DataError(concat(where, ": expected two tokens with a blank between them, got ",
                             quote(std::string(line))));
    }
    const std::string left(line.substr(0, blank));
    const std::string right(line.substr(blank + 1));
    spec_.merges.push_back(
        {find_token(left, where), find_token(right, where), find_token(left + right, where)});
    merged_.insert(spec_.merges.back().result);
  }

  int32_t find_token(const std::string& token, const std::string& where) const {
    const auto it = spec_.vocabulary.find(token);
    if (it == spec_.vocabulary.end()) {
      throw DataError(concat(where, ": token ", quote(token), " is not in ", vocabulary_name_,
                             "; are the two files of one tokenizer?"));
    }
    return it->second;
  }

  // The files do not say which tokens steer: those in angle brackets that no merge makes, such as
  // <|endoftext|> and <s>. Text cannot yield them, so nothing else changes.
  void find_control_tokens() {
    for (const auto& [token, id] : spec_.vocabulary) {
      if (token.size() < 3 || token.front() != '<' || token.back() != '>' || merged_.contains(id))
        continue;
      AddedToken control;
      control.content = token;
      control.id = id;
      control.special = true;
      spec_.added.push_back(std::move(control));
    }
    std::sort(spec_.added.begin(), spec_.added.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }

  const std::string& vocabulary_name_;
  const std::string& merges_name_;
  TokenizerSpec spec_;
  std::unordered_set<int32_t> merged_;
};

}  // namespace

TokenizerFiles find_tokenizer_files(const std::string& path) {
  const fs::path given(path);
  std::error_code ignored;
  if (fs::is_directory(given, ignored)) {
    if (is_there(given / kWholeFile)) return {(given / kWholeFile).string(), ""};
    std::string wanted = kWholeFile;
    for (const PairNames& names : kPairs) {
      if (is_there(given / names.vocabulary))
        return with_partner(given / names.vocabulary, names, true);
      if (is_there(given / names.merges)) return with_partner(given / names.merges, names, false);
      wanted += concat(", or ", names.vocabulary, " and ", names.merges);
    }
    if (is_there(given / kWordPieces)) return word_piece_files(given / kWordPieces);
    wanted += concat(", or ", kWordPieces);
    throw DataError(concat(path, ": no tokenizer in this folder; expected ", wanted));
  }
  for (const PairNames& names : kPairs) {
    if (given.filename() == names.vocabulary) return with_partner(given, names, true);
    if (given.filename() == names.merges) return with_partner(given, names, false);
  }
  if (given.filename() == kWordPieces) return word_piece_files(given);
  return {path, ""};
}

TokenizerSpec parse_word_pieces(const std::string& vocabulary, const std::string& name,
                                bool lowercase) {
  TokenizerSpec spec;
  spec.word_piece.emplace();
  spec.word_piece->normalizer.lowercase = spec.word_piece->normalizer.strip_accents = lowercase;
  int64_t number = 0;
  for (size_t begin = 0; begin < vocabulary.size(); ++number) {
    const size_t newline = std::min(vocabulary.find('\n', begin), vocabulary.size());
    std::string token = vocabulary.substr(begin, newline - begin);
    if (!token.empty() && token.back() == '\r') token.pop_back();
    begin = newline + 1;
    if (number > kMaximumTokenId)
      throw DataError(concat(name, ": over ", kMaximumTokenId + 1, " tokens"));
    if (!spec.vocabulary.emplace(token, static_cast<int32_t>(number)).second)
      throw DataError(concat(name, ":", number + 1, ": the token ", quote(token), " stands twice"));
  }
  for (const char* control : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    const auto found = spec.vocabulary.find(control);
    if (found == spec.vocabulary.end())
      throw DataError(concat(name, ": expected the token ", control,
                             ", one a line; is this BERT's ", kWordPieces, "?"));
    AddedToken token;
    token.content = control;
    token.id = found->second;
    token.special = true;
    spec.added.push_back(std::move(token));
  }
  spec.word_piece->unknown = spec.vocabulary.at("[UNK]");
  return spec;
}

TokenizerSpec parse_tokenizer_pair(const std::string& vocabulary,
                                   const std::string& vocabulary_name, const std::string& merges,
                                   const std::string& merges_name) {
  return PairParser(vocabulary_name, merges_name).parse(vocabulary, merges);
}

}  // namespace dsrsq::text
