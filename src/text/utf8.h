// UTF-8 and the byte alphabet of GPT-2.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsrsq::text {

constexpr char32_t kReplacement = 0xFFFD;

struct Decoded {
  char32_t code_point;  // kReplacement where not valid
  uint32_t length;  // bytes; of an invalid sequence its maximal valid prefix, at least 1, as Python
                    // and Rust count
  bool valid;
};
// The character that begins at `at` < text.size().
Decoded decode_utf8(std::string_view text, size_t at);
void append_utf8(std::string& out, char32_t code_point);

bool is_white_space(char32_t c);  // Unicode's White_Space

// Text with every invalid sequence replaced by U+FFFD, and the way back to the original's offsets.
class CleanText {
 public:
  explicit CleanText(std::string_view original);
  std::string_view view() const {
    return replaced_.empty() ? original_ : std::string_view(cleaned_);
  }
  // Byte offset in view() -> byte offset in the original. Offsets inside a U+FFFD that replaced
  // something move to its begin, or to its end.
  size_t original_begin(size_t offset) const { return map(offset, false); }
  size_t original_end(size_t offset) const { return map(offset, true); }

 private:
  struct Replaced {
    size_t cleaned_begin;
    size_t original_begin;
    size_t original_end;
  };
  size_t map(size_t offset, bool up) const;
  std::string_view original_;
  std::string cleaned_;
  std::vector<Replaced> replaced_;
};

// GPT-2 spells each byte as a printable character: itself where printable in Latin-1, else U+0100
// and up.
const std::array<char32_t, 256>& byte_alphabet();
std::string spell_bytes(std::string_view bytes);  // "a b" -> "aĠb"
// The bytes that a token spells; a token with a character outside the alphabet stands for its own
// UTF-8 and `spelled` becomes false.
std::string unspell_bytes(std::string_view token, bool* spelled = nullptr);

}  // namespace dsrsq::text
