#include "options_text.h"

#include "record_reader.h"

namespace dsrsq {

std::string with_options(const std::string& question, const std::vector<std::string>& options) {
  std::string text = trimmed(question);
  for (size_t i = 0; i < options.size(); ++i) {
    text += "\n(";
    text += static_cast<char>('A' + i);
    text += ") " + trimmed(options[i]);
  }
  return text;
}

}  // namespace dsrsq
