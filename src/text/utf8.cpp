#include "utf8.h"

#include <algorithm>

namespace dsrsq::text {

Decoded decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return {lead, 1, true};
  uint32_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return {kReplacement, 1, false};
  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code_point = lead & (0xFF >> (length + 1));
  for (uint32_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {kReplacement, i, false};
    const unsigned char next = byte(at + i);
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF))
      return {kReplacement, i, false};
    code_point = (code_point << 6) | (next & 0x3F);
  }
  return {code_point, length, true};
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

CleanText::CleanText(std::string_view original) : original_(original) {
  size_t copied = 0;
  for (size_t at = 0; at < original.size();) {
    const Decoded c = decode_utf8(original, at);
    if (!c.valid) {
      cleaned_.append(original, copied, at - copied);
      replaced_.push_back({cleaned_.size(), at, at + c.length});
      append_utf8(cleaned_, kReplacement);
      copied = at + c.length;
    }
    at += c.length;
  }
  if (!replaced_.empty()) cleaned_.append(original, copied, std::string_view::npos);
}

size_t CleanText::map(size_t offset, bool up) const {
  constexpr size_t kReplacementBytes = 3;
  // The last replacement that begins before the offset.
  auto it =
      std::lower_bound(replaced_.begin(), replaced_.end(), offset,
                       [](const Replaced& r, size_t value) { return r.cleaned_begin < value; });
  if (it == replaced_.begin()) return offset;
  --it;
  if (offset < it->cleaned_begin + kReplacementBytes)
    return up ? it->original_end : it->original_begin;
  return it->original_end + (offset - it->cleaned_begin - kReplacementBytes);
}

const std::array<char32_t, 256>& byte_alphabet() {
  static const std::array<char32_t, 256> alphabet = [] {
    std::array<char32_t, 256> out{};
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      out[b] = printable ? static_cast<char32_t>(b) : next++;
    }
    return out;
  }();
  return alphabet;
}

std::string spell_bytes(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) append_utf8(out, byte_alphabet()[static_cast<unsigned char>(b)]);
  return out;
}

std::string unspell_bytes(std::string_view token, bool* spelled) {
  constexpr size_t kAlphabetEnd = 0x144;  // 256 + the 68 bytes that are not printable
  static const std::array<int16_t, kAlphabetEnd> byte_of = [] {
    std::array<int16_t, kAlphabetEnd> out;
    out.fill(-1);
    for (int b = 0; b < 256; ++b) out[byte_alphabet()[b]] = static_cast<int16_t>(b);
    return out;
  }();
  std::string out;
  if (spelled != nullptr) *spelled = true;
  for (size_t at = 0; at < token.size();) {
    const Decoded c = decode_utf8(token, at);
    if (c.code_point >= kAlphabetEnd || byte_of[c.code_point] < 0) {
      if (spelled != nullptr) *spelled = false;
      return std::string(token);
    }
    out += static_cast<char>(byte_of[c.code_point]);
    at += c.length;
  }
  return out;
}

}  // namespace dsrsq::text
