// What the code readers need to know of source text: docstrings of Python functions, definitions at
// the left margin. Small scanners, no parsers: what they do not understand they leave out. Private
// to src/data.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dsrsq/data/example.h"

namespace dsrsq {

struct PythonFunction {
  std::string name;
  ByteSpan text;           // from the line of "def" to the end of the body
  ByteSpan docstring;      // whole lines; empty where the function has none
  std::string first_line;  // of the docstring, that is not blank; without quotes and white space
                           // around it
  std::string docstring_text;  // between the quotes
};
// All functions and methods, also nested ones, in the order of the text. A docstring is a string
// literal (no bytes, no f-string) that is a statement of its own on the lines after the signature.
std::vector<PythonFunction> python_functions(std::string_view code);

struct Definition {
  std::string name;
  ByteSpan line;  // without its line feed
};
// Types and functions that a keyword introduces in column 0 (def, class, struct, enum, union,
// trait, interface, fn, func, function, after modifiers such as pub or export), but no declaration
// that ends with a semicolon. `path` tells the language by its extension; none of an unknown one.
std::vector<Definition> top_level_definitions(const std::string& path, std::string_view code);

// Whether `word` stands in `text` with no letter, digit or underscore beside it.
bool holds_identifier(std::string_view text, std::string_view word);

// `text` without the ranges, which are disjoint and in order.
class CutText {
 public:
  CutText(std::string_view text, std::vector<ByteSpan> cut);
  const std::string& text() const { return text_; }
  int64_t moved(int64_t at) const;  // a place in the original -> in text()
  ByteSpan moved(const ByteSpan& span) const { return {moved(span.begin), moved(span.end)}; }

 private:
  std::vector<ByteSpan> cut_;
  std::string text_;
};

}  // namespace dsrsq
