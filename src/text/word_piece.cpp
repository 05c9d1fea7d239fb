#include "word_piece.h"

#include <algorithm>

namespace dsrsq::text {

WordPiece::WordPiece(const WordPieceSpec& spec,
                     const std::unordered_map<std::string, int32_t>& vocabulary)
    : unknown_(spec.unknown),
      maximum_characters_(static_cast<size_t>(spec.maximum_word_characters)) {
  for (const auto& [token, id] : vocabulary) {
    first_.ids.emplace(token, id);
    first_.longest = std::max(first_.longest, token.size());
    if (!token.starts_with(spec.prefix)) continue;
    next_.ids.emplace(token.substr(spec.prefix.size()), id);
    next_.longest = std::max(next_.longest, token.size() - spec.prefix.size());
  }
}

void WordPiece::encode(const BertWord& word, std::vector<Token>& out) const {
  const auto& characters = word.characters;
  const size_t count = characters.size();
  // Marks may have changed places, so begins and ends need not rise.
  const auto source = [&](size_t from, size_t to, int32_t id) {
    Token token{id, characters[from].begin, characters[from].end};
    for (size_t i = from; i < to; ++i) {
      token.begin = std::min(token.begin, characters[i].begin);
      token.end = std::max(token.end, characters[i].end);
    }
    return token;
  };
  const auto byte_of = [&](size_t i) {
    return i < count ? size_t{characters[i].at} : word.bytes.size();
  };
  const size_t already = out.size();
  for (size_t from = 0; from < count && count <= maximum_characters_;) {
    const Pieces& pieces = from == 0 ? first_ : next_;
    size_t to = count;
    auto found = pieces.ids.end();
    for (; to > from; --to) {
      const size_t bytes = byte_of(to) - byte_of(from);
      if (bytes > pieces.longest) continue;
      found = pieces.ids.find(word.bytes.substr(byte_of(from), bytes));
      if (found != pieces.ids.end()) break;
    }
    if (to == from) {
      out.resize(already);
      break;
    }
    out.push_back(source(from, to, found->second));
    from = to;
  }
  if (out.size() == already) out.push_back(source(0, count, unknown_));
}

namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

}  // namespace

std::vector<std::string> word_piece_texts(const WordPieceSpec& spec,
                                          std::vector<std::string> tokens) {
  // In the order in which `tokenizers` does it.
  static constexpr std::string_view kCleanup[][2] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::string& token = tokens[i];
    if (i > 0 && token.starts_with(spec.prefix)) {
      token.erase(0, spec.prefix.size());
    } else if (i > 0) {
      token.insert(token.begin(), ' ');
    }
    if (!spec.decode_cleanup) continue;
    for (const auto& [from, to] : kCleanup) replace_all(token, from, to);
  }
  return tokens;
}

}  // namespace dsrsq::text
