#include "options_text.h"

namespace dsrsq {

std::string trimmed(const std::string& text) {
  const char* white_space = " \t\r\n";
  const size_t begin = text.find_first_not_of(white_space);
  return begin == std::string::npos
             ? ""
             : text.substr(begin, text.find_last_not_of(white_space) + 1 - begin);
}

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
