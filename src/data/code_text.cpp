#include "code_text.h"

#include <algorithm>
#include <array>

namespace dsrsq {
namespace {

bool is_identifier(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         (static_cast<unsigned char>(c) & 0x80) != 0;
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\f'; }

std::string_view word_at(std::string_view text, size_t at) {
  size_t end = at;
  while (end < text.size() && is_identifier(text[end])) ++end;
  return text.substr(at, end - at);
}

size_t skip_blanks(std::string_view text, size_t at) {
  while (at < text.size() && is_blank(text[at])) ++at;
  return at;
}

std::string_view strip(std::string_view text) {
  while (!text.empty() && (is_blank(text.back()) || text.back() == '\n')) text.remove_suffix(1);
  while (!text.empty() && (is_blank(text[0]) || text[0] == '\n')) text.remove_prefix(1);
  return text;
}

// A logical line of Python: what a line feed outside brackets and strings ends. Lines of white
// space and comments are none.
struct PythonLine {
  size_t begin = 0;  // of its first physical line
  size_t end = 0;    // after its line feed
  size_t first = 0;  // its first character that is not white space
  // Of a line that is nothing but one string literal: what stands between the quotes.
  bool is_string = false;
  size_t string_begin = 0, string_end = 0;
  size_t indent() const { return first - begin; }
};

class PythonLines {
 public:
  explicit PythonLines(std::string_view code) : code_(code) {}

  std::vector<PythonLine> read() {
    std::vector<PythonLine> lines;
    while (at_ < code_.size()) {
      PythonLine line;
      line.begin = at_;
      line.first = at_ = skip_blanks(code_, at_);
      const bool empty = at_ == code_.size() || code_[at_] == '\n' || code_[at_] == '#';
      read_to_end(line);
      line.end = at_;
      if (!empty) lines.push_back(line);
    }
    return lines;
  }

 private:
  void read_to_end(PythonLine& line) {
    int64_t depth = 0;
    bool only_string = false, first = true;
    while (at_ < code_.size()) {
      const char c = code_[at_];
      if (c == '\n' && depth <= 0) {
        ++at_;
        break;
      }
      const bool blank = is_blank(c) || c == '\n';
      if (c == '#') {
        at_ = std::min(code_.find('\n', at_), code_.size());
        continue;
      }
      const size_t prefix = first ? docstring_prefix() : 0;
      if (c == '"' || c == '\'' || prefix > 0) {
        at_ += prefix;
        const auto [begin, end] = read_string();
        only_string = first;
        line.string_begin = begin;
        line.string_end = end;
        first = false;
        continue;
      }
      if (!blank) first = only_string = false;
      if (c == '\\') ++at_;  // joins the next physical line
      if (c == '(' || c == '[' || c == '{') ++depth;
      if (c == ')' || c == ']' || c == '}') --depth;
      ++at_;
    }
    at_ = std::min(at_, code_.size());
    line.is_string = only_string;
  }

  // Of a string that may be a docstring.
  size_t docstring_prefix() const {
    constexpr std::string_view kPrefixes = "rRuU";
    return at_ + 1 < code_.size() && kPrefixes.find(code_[at_]) != std::string_view::npos &&
                   (code_[at_ + 1] == '"' || code_[at_ + 1] == '\'')
               ? 1
               : 0;
  }

  // Passes the literal that begins at its quote; what is between the quotes. A string of one line
  // that does not end there ends with it.
  std::pair<size_t, size_t> read_string() {
    const char quote = code_[at_];
    const bool triple = code_.substr(at_, 3) == std::string(3, quote);
    at_ += triple ? 3 : 1;
    const size_t begin = at_;
    for (; at_ < code_.size(); ++at_) {
      if (code_[at_] == '\\') {
        ++at_;
      } else if (!triple && code_[at_] == '\n') {
        return {begin, at_};
      } else if (code_[at_] == quote &&
                 (!triple || code_.substr(at_, 3) == std::string(3, quote))) {
        const size_t end = at_;
        at_ += triple ? 3 : 1;
        return {begin, end};
      }
    }
    at_ = code_.size();
    return {std::min(begin, code_.size()), code_.size()};
  }

  std::string_view code_;
  size_t at_ = 0;
};

// The name of the function that the line defines, or nothing.
std::string_view function_name(std::string_view code, const PythonLine& line) {
  size_t at = line.first;
  if (word_at(code, at) == "async") at = skip_blanks(code, at + 5);
  if (word_at(code, at) != "def") return {};
  return word_at(code, skip_blanks(code, at + 3));
}

std::string first_line_of(std::string_view text) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = strip(text.substr(begin, end - begin));
    if (!line.empty()) return std::string(line);
    begin = end + 1;
  }
  return "";
}

bool is_source_path(const std::string& path) {
  static constexpr std::array kExtensions = {
      ".py", ".c",   ".cc",  ".cpp",  ".cxx", ".h",     ".hh", ".hpp",   ".rs",  ".go", ".js",
      ".ts", ".jsx", ".tsx", ".java", ".kt",  ".swift", ".cs", ".scala", ".php", ".rb"};
  const size_t dot = path.rfind('.');
  return dot != std::string::npos &&
         std::find(kExtensions.begin(), kExtensions.end(), std::string_view(path).substr(dot)) !=
             kExtensions.end();
}

template <size_t n>
bool is_one_of(std::string_view word, const std::array<std::string_view, n>& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

constexpr std::array<std::string_view, 16> kModifiers = {
    "pub",    "export", "default",  "public", "private", "protected", "internal", "static",
    "unsafe", "async",  "abstract", "final",  "sealed",  "open",      "data",     "const"};
constexpr std::array<std::string_view, 6> kTypeKeywords = {"class", "struct",    "enum",
                                                           "union", "interface", "trait"};
constexpr std::array<std::string_view, 4> kFunctionKeywords = {"def", "fn", "func", "function"};
// What may follow a type's name; any other word says that the one before was a macro
// (class EXPORT Cache).
constexpr std::array<std::string_view, 6> kAfterName = {"final", "extends", "implements",
                                                        "where", "for",     "with"};

std::string_view definition_name(std::string_view line) {
  size_t at = 0;
  std::string_view word = word_at(line, at);
  while (is_one_of(word, kModifiers)) {
    at += word.size();
    if (at < line.size() && line[at] == '(') at = std::min(line.find(')', at), line.size() - 1) + 1;
    at = skip_blanks(line, at);
    word = word_at(line, at);
  }
  const bool type = is_one_of(word, kTypeKeywords);
  if (!type && !is_one_of(word, kFunctionKeywords)) return {};
  at = skip_blanks(line, at + word.size());
  std::string_view name = word_at(line, at);
  while (type && !name.empty()) {
    at = skip_blanks(line, at + name.size());
    const std::string_view next = word_at(line, at);
    if (next.empty() || is_one_of(next, kAfterName)) break;
    name = next;
  }
  return name;
}

}  // namespace

std::vector<PythonFunction> python_functions(std::string_view code) {
  const std::vector<PythonLine> lines = PythonLines(code).read();
  std::vector<PythonFunction> functions;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string_view name = function_name(code, lines[i]);
    if (name.empty()) continue;
    PythonFunction function;
    function.name = std::string(name);
    size_t last = i;
    while (last + 1 < lines.size() && lines[last + 1].indent() > lines[i].indent()) ++last;
    function.text = {static_cast<int64_t>(lines[i].first), static_cast<int64_t>(lines[last].end)};
    if (last > i && lines[i + 1].is_string) {
      const PythonLine& line = lines[i + 1];
      function.docstring = {static_cast<int64_t>(line.begin), static_cast<int64_t>(line.end)};
      function.docstring_text =
          std::string(code.substr(line.string_begin, line.string_end - line.string_begin));
      function.first_line = first_line_of(function.docstring_text);
    }
    functions.push_back(std::move(function));
  }
  return functions;
}

std::vector<Definition> top_level_definitions(const std::string& path, std::string_view code) {
  std::vector<Definition> definitions;
  if (!is_source_path(path)) return definitions;
  for (size_t begin = 0; begin < code.size();) {
    const size_t end = std::min(code.find('\n', begin), code.size());
    const std::string_view line = code.substr(begin, end - begin);
    const std::string_view code_of_line = strip(line);
    const std::string_view name = definition_name(line);
    if (!name.empty() && code_of_line.back() != ';')
      definitions.push_back(
          {std::string(name),
           {static_cast<int64_t>(begin), static_cast<int64_t>(begin + code_of_line.size())}});
    begin = end + 1;
  }
  return definitions;
}

bool holds_identifier(std::string_view text, std::string_view word) {
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !is_identifier(text[at - 1])) &&
        (end == text.size() || !is_identifier(text[end])))
      return true;
  }
  return false;
}

CutText::CutText(std::string_view text, std::vector<ByteSpan> cut) : cut_(std::move(cut)) {
  int64_t from = 0;
  for (const ByteSpan& span : cut_) {
    text_ += text.substr(from, span.begin - from);
    from = span.end;
  }
  text_ += text.substr(from);
}

int64_t CutText::moved(int64_t at) const {
  int64_t before = 0;
  for (const ByteSpan& span : cut_) before += std::clamp(at, span.begin, span.end) - span.begin;
  return at - before;
}

}  // namespace dsrsq
