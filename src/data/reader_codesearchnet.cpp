// CodeSearchNet (Husain et al. 2019): a function, and the docstring that it came with.
#include "code_text.h"
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// In Python the docstring is part of the function; in other languages it is the comment before it.
// What stands there verbatim is cut as well, but single words, which may be names.
std::string without_docstring(const std::string& code, const std::string& docstring) {
  std::vector<ByteSpan> cut;
  const std::vector<PythonFunction> functions = python_functions(code);
  if (!functions.empty() && functions[0].docstring.end > 0) cut.push_back(functions[0].docstring);
  const std::string text = CutText(code, cut).text();
  if (docstring.find_first_of(" \n") == std::string::npos) return text;
  cut.clear();
  for (size_t at = text.find(docstring); at != std::string::npos;) {
    const size_t end = at + docstring.size();
    cut.push_back({static_cast<int64_t>(at), static_cast<int64_t>(end)});
    at = text.find(docstring, end);
  }
  return CutText(text, cut).text();
}

DocumentExample read_record(const json& value, const RecordPlace& place) {
  const std::string& function = require_text_key(value, "func_name");
  const std::string& path = require_text_key(value, "path");
  const std::string& repository = require_text_key(value, "repo");
  const std::string& docstring = require_text_key(value, "docstring");
  DocumentExample example;
  example.document = without_docstring(require_text_key(value, "original_string"), docstring);
  if (example.document.find_first_not_of(" \t\r\n") == std::string::npos)
    throw BadRecord{"\"original_string\" is nothing but the docstring"};
  example.title = path;
  example.split_keys = {repository + "/" + path, example.document};
  Question question;
  const auto url = value.find("url");
  question.id = url == value.end() ? concat(repository, "/", path, "#", function)
                                   : require_string(*url, "url");
  question.text = concat("What does the docstring of ", function, " say?");
  question.answers = {docstring};
  question.source_line = place.line;
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_codesearchnet(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink) {
  return read_question_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
