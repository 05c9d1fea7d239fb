#include "dsrsq/core/error.h"

#include <cstdio>

namespace dsrsq {

std::string quote(const std::string& text) {
  constexpr size_t kShown = 80;
  std::string out = "'";
  for (size_t i = 0; i < text.size() && i < kShown; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x20 && byte != 0x7f) {
      out += text[i];
    } else {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", byte);
      out += byte == '\n' ? "\\n" : escape;
    }
  }
  return out + (text.size() > kShown ? "...'" : "'");
}

}  // namespace dsrsq
