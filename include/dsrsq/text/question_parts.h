// What the readers put together as a question, taken apart: a prompt may place {question}, all of
// it, or {stem}, {options} and {quoted}.
#pragma once

#include <string>
#include <vector>

namespace dsrsq {

struct QuestionParts {
  std::string stem;     // what stands before the options; without options all of it
  std::string options;  // the lines "(A) ...", "(B) ..." at the end, joined by line breaks
  std::string quoted;   // between the first and the last double quote; without two, nothing
  std::vector<std::string> option_texts;  // of A, B, ...
};

QuestionParts question_parts(const std::string& question);

}  // namespace dsrsq
