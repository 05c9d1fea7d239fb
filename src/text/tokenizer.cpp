#include "dsrsq/text/tokenizer.h"

#include <algorithm>
#include <bitset>
#include <deque>
#include <limits>
#include <optional>
#include <unordered_map>

#include "bpe.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "tokenizer_files.h"
#include "tokenizer_spec.h"
#include "utf8.h"
#include "word_piece.h"

namespace dsrsq {
namespace {

using text::AddedToken;
using text::Match;

struct AddedMatch {
  Match range;
  const AddedToken* token;  // nullptr: plain text
};

size_t skip_space_back(std::string_view text, size_t floor, size_t at) {
  while (at > floor) {
    size_t begin = at - 1;
    while (begin > floor && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!text::is_white_space(text::decode_utf8(text, begin).code_point)) break;
    at = begin;
  }
  return at;
}

size_t skip_space(std::string_view text, size_t at) {
  while (at < text.size()) {
    const text::Decoded c = text::decode_utf8(text, at);
    if (!text::is_white_space(c.code_point)) break;
    at += c.length;
  }
  return at;
}

// Finds added tokens leftmost first, the longest among those.
class AddedTokenFinder {
 public:
  void add(const AddedToken* token) {
    tokens_[token->content] = token;
    const size_t length = token->content.size();
    first_bytes_.set(static_cast<unsigned char>(token->content[0]));
    if (std::find(lengths_.begin(), lengths_.end(), length) == lengths_.end())
      lengths_.push_back(length);
    std::sort(lengths_.begin(), lengths_.end(), std::greater<>());
  }

  // Cuts `range` of the text. Special tokens are matched, so that nothing else matches inside them,
  // and then left as text unless `parse_special`, as `tokenizers` does with encode_special_tokens.
  void cut(std::string_view text, Match range, bool parse_special,
           std::vector<AddedMatch>& out) const {
    const std::string_view piece = text.substr(range.begin, range.end - range.begin);
    size_t done = 0;
    size_t at = 0;
    while (!tokens_.empty() && at < piece.size()) {
      const AddedToken* token = match_at(piece, at);
      if (token == nullptr) {
        ++at;
        continue;
      }
      const size_t match_begin = at;
      at += token->content.size();
      if (token->special && !parse_special) continue;
      const size_t begin =
          token->strip_left ? skip_space_back(piece, done, match_begin) : match_begin;
      const size_t end = token->strip_right ? skip_space(piece, at) : at;
      if (done < begin) out.push_back({{range.begin + done, range.begin + begin}, nullptr});
      out.push_back({{range.begin + begin, range.begin + end}, token});
      at = done = end;
    }
    if (done < piece.size()) out.push_back({{range.begin + done, range.end}, nullptr});
  }

 private:
  const AddedToken* match_at(std::string_view text, size_t at) const {
    if (!first_bytes_.test(static_cast<unsigned char>(text[at]))) return nullptr;
    for (const size_t length : lengths_) {
      if (at + length > text.size()) continue;
      const auto it = tokens_.find(text.substr(at, length));
      if (it != tokens_.end()) return it->second;
    }
    return nullptr;
  }

  std::unordered_map<std::string_view, const AddedToken*> tokens_;
  std::vector<size_t> lengths_;  // descending
  std::bitset<256> first_bytes_;
};

}  // namespace

struct Tokenizer::Impl {
  Impl(text::TokenizerSpec parsed, std::string name_for_errors, std::string sha256);

  // Calls emit(id, begin, end), offsets in the clean text.
  template <typename Emit>
  void encode(std::string_view clean, bool parse_special, const Emit& emit) const;
  template <typename Emit>
  void encode_bpe(std::string_view clean, const std::vector<AddedMatch>& pieces,
                  const Emit& emit) const;
  template <typename Emit>
  void encode_word_pieces(std::string_view clean, const std::vector<AddedMatch>& pieces,
                          const Emit& emit) const;
  std::vector<AddedMatch> cut_added_tokens(std::string_view clean, bool parse_special) const;
  std::vector<std::string> texts(const std::vector<int32_t>& list, bool keep_special) const;
  int32_t first_of(const std::vector<const char*>& candidates, const char* role) const;

  std::string name;
  std::string fingerprint;
  text::TokenizerSpec spec;
  std::optional<text::Bpe> bpe;  // or
  std::optional<text::WordPiece> word_piece;
  AddedTokenFinder exact;                            // looked for in the raw text first
  AddedTokenFinder normalized;                       // then these, in what is left
  std::unordered_map<int32_t, std::string> decoded;  // id -> bytes
  std::unordered_map<std::string, int32_t> ids;  // added and model tokens, as spelled in the file
  std::unordered_map<int32_t, bool> special;
  int64_t vocabulary_size = 0;
};

Tokenizer::Impl::Impl(text::TokenizerSpec parsed, std::string name_for_errors, std::string sha256)
    : name(std::move(name_for_errors)),
      fingerprint(std::move(sha256)),
      spec(std::move(parsed)),
      ids(spec.vocabulary) {
  if (spec.word_piece) {
    word_piece.emplace(*spec.word_piece, spec.vocabulary);
  } else {
    bpe.emplace(spec);
  }
  for (const AddedToken& token : spec.added) {
    ids[token.content] = token.id;
    if (token.special) special[token.id] = true;
    (token.normalized ? normalized : exact).add(&token);
  }
  decoded.reserve(ids.size());
  for (const auto& [token, id] : ids) {
    decoded.emplace(id, spec.word_piece ? token : text::unspell_bytes(token));
    vocabulary_size = std::max<int64_t>(vocabulary_size, int64_t{id} + 1);
  }
}

std::vector<AddedMatch> Tokenizer::Impl::cut_added_tokens(std::string_view clean,
                                                          bool parse_special) const {
  std::vector<AddedMatch> first;
  exact.cut(clean, {0, clean.size()}, parse_special, first);
  std::vector<AddedMatch> out;
  for (const AddedMatch& match : first) {
    if (match.token != nullptr) {
      out.push_back(match);
    } else {
      normalized.cut(clean, match.range, parse_special, out);
    }
  }
  return out;
}

template <typename Emit>
void Tokenizer::Impl::encode(std::string_view clean, bool parse_special, const Emit& emit) const {
  if (clean.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw DataError(concat(name, ": a text of ", clean.size(),
                           " bytes is over the limit of 2147483647; split it"));
  }
  const std::vector<AddedMatch> pieces = cut_added_tokens(clean, parse_special);
  if (word_piece) {
    encode_word_pieces(clean, pieces, emit);
  } else {
    encode_bpe(clean, pieces, emit);
  }
}

template <typename Emit>
void Tokenizer::Impl::encode_word_pieces(std::string_view clean,
                                         const std::vector<AddedMatch>& pieces,
                                         const Emit& emit) const {
  std::vector<text::WordPiece::Token> tokens;
  for (const AddedMatch& match : pieces) {
    if (match.token != nullptr) {
      emit(match.token->id, match.range.begin, match.range.end);
      continue;
    }
    text::for_each_bert_word(spec.word_piece->normalizer, clean, match.range,
                             [&](const text::BertWord& word) {
                               tokens.clear();
                               word_piece->encode(word, tokens);
                               for (const auto& token : tokens)
                                 emit(token.id, token.begin, token.end);
                             });
  }
}

template <typename Emit>
void Tokenizer::Impl::encode_bpe(std::string_view clean, const std::vector<AddedMatch>& pieces,
                                 const Emit& emit) const {
  text::Searcher searcher;
  text::Bpe::Workspace workspace;
  std::deque<std::string> storage;
  std::vector<text::Word> words;
  // Words repeat; the cache lives for one call, so that encode needs no lock and holds no memory
  // between calls.
  std::vector<text::BpeToken> tokens;
  std::unordered_map<std::string_view, Match> cache;
  for (const AddedMatch& match : pieces) {
    if (match.token != nullptr) {
      emit(match.token->id, match.range.begin, match.range.end);
      continue;
    }
    words.clear();
    text::pre_tokenize(spec.pre_tokenizer, clean, match.range, searcher, storage, words);
    for (const text::Word& word : words) {
      const auto [it, inserted] = cache.try_emplace(word.bytes);
      if (inserted) {
        it->second.begin = tokens.size();
        bpe->encode(word.bytes, workspace, tokens);
        it->second.end = tokens.size();
      }
      const size_t prefix = word.prefixed ? 1 : 0;
      for (size_t i = it->second.begin; i < it->second.end; ++i) {
        emit(tokens[i].id, word.begin + tokens[i].begin - std::min<size_t>(tokens[i].begin, prefix),
             word.begin + tokens[i].end - prefix);
      }
    }
  }
}

// What each id adds to the text; empty for those that are left out.
std::vector<std::string> Tokenizer::Impl::texts(const std::vector<int32_t>& list,
                                                bool keep_special) const {
  std::vector<std::string> tokens;
  std::vector<size_t> places;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto it = decoded.find(list[i]);
    if (it == decoded.end()) continue;  // a row of the output layer that no token has
    if (!keep_special && special.contains(list[i])) continue;
    tokens.push_back(it->second);
    places.push_back(i);
  }
  if (spec.word_piece) tokens = text::word_piece_texts(*spec.word_piece, std::move(tokens));
  std::vector<std::string> out(list.size());
  for (size_t i = 0; i < places.size(); ++i) out[places[i]] = std::move(tokens[i]);
  return out;
}

int32_t Tokenizer::Impl::first_of(const std::vector<const char*>& candidates,
                                  const char* role) const {
  std::string tried;
  for (const char* candidate : candidates) {
    const auto it = ids.find(candidate);
    if (it != ids.end()) return it->second;
    tried += concat(tried.empty() ? "" : ", ", candidate);
  }
  throw DataError(
      concat(name, ": no ", role, " token, looked for ", tried,
             "; train the tokenizer with scripts/train_tokenizer.py or add one to added_tokens"));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_file(const std::string& path) {
  constexpr size_t kMaximumBytes = size_t{128} << 20;  // the largest known have 33 MB
  const text::TokenizerFiles files = text::find_tokenizer_files(path);
  const std::string content = read_file(files.path, kMaximumBytes);
  if (files.word_pieces) return from_word_pieces(content, files.path, files.lowercase);
  if (files.merges.empty()) return from_json(content, files.path);
  return from_pair(content, read_file(files.merges, kMaximumBytes), files.path, files.merges);
}

Tokenizer Tokenizer::from_json(const std::string& json, const std::string& name_for_errors) {
  return Tokenizer(std::make_unique<Impl>(text::parse_tokenizer_json(json, name_for_errors),
                                          name_for_errors, sha256_hex(json)));
}

Tokenizer Tokenizer::from_word_pieces(const std::string& vocabulary,
                                      const std::string& name_for_errors, bool lowercase) {
  return Tokenizer(
      std::make_unique<Impl>(text::parse_word_pieces(vocabulary, name_for_errors, lowercase),
                             name_for_errors, sha256_hex(vocabulary + (lowercase ? "" : "cased"))));
}

Tokenizer Tokenizer::from_pair(const std::string& vocabulary, const std::string& merges,
                               const std::string& vocabulary_name, const std::string& merges_name) {
  return Tokenizer(std::make_unique<Impl>(
      text::parse_tokenizer_pair(vocabulary, vocabulary_name, merges, merges_name), vocabulary_name,
      sha256_hex(sha256_hex(vocabulary) + sha256_hex(merges))));
}

std::vector<int32_t> Tokenizer::encode(const std::string& text, bool parse_special) const {
  const text::CleanText clean(text);
  std::vector<int32_t> out;
  out.reserve(text.size() / 4 + 1);
  impl_->encode(clean.view(), parse_special,
                [&](int32_t id, size_t, size_t) { out.push_back(id); });
  return out;
}

std::vector<int32_t> Tokenizer::encode_with_spans(const std::string& text,
                                                  std::vector<Span>& spans) const {
  const text::CleanText clean(text);
  std::vector<int32_t> out;
  spans.clear();
  impl_->encode(clean.view(), false, [&](int32_t id, size_t begin, size_t end) {
    out.push_back(id);
    spans.push_back({static_cast<int64_t>(clean.original_begin(begin)),
                     static_cast<int64_t>(clean.original_end(end))});
  });
  return out;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool keep_special) const {
  std::string bytes;
  for (const std::string& text : impl_->texts(ids, keep_special)) bytes += text;
  return std::string(text::CleanText(bytes).view());
}

std::string Tokenizer::decode_with_spans(const std::vector<int32_t>& ids,
                                         std::vector<Span>& spans) const {
  std::string bytes;
  spans.clear();
  for (const std::string& text : impl_->texts(ids, false)) {
    const auto begin = static_cast<int64_t>(bytes.size());
    bytes += text;
    spans.push_back({begin, static_cast<int64_t>(bytes.size())});
  }
  return bytes;
}

int64_t Tokenizer::vocabulary_size() const { return impl_->vocabulary_size; }

int32_t Tokenizer::begin_id() const {
  return impl_->first_of({"<|bos|>", "<s>", "<|begin_of_text|>", "<|endoftext|>"}, "begin-of-text");
}

int32_t Tokenizer::end_id() const {
  return impl_->first_of({"<|eos|>", "</s>", "<|im_end|>", "<|endoftext|>"}, "end-of-text");
}

int32_t Tokenizer::token_id(const std::string& token) const {
  const auto it = impl_->ids.find(token);
  return it == impl_->ids.end() ? -1 : it->second;
}

const std::string& Tokenizer::fingerprint() const { return impl_->fingerprint; }

}  // namespace dsrsq
