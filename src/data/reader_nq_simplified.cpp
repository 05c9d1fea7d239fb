#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "nq_annotations.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// Byte ranges of tokens: the text between single blanks, and only these (not other white space), as
// NQ's text_utils.py.
class TokenRanges {
 public:
  explicit TokenRanges(const std::string& text) {
    for (size_t begin = 0;;) {
      const size_t end = std::min(text.find(' ', begin), text.size());
      ranges_.push_back({static_cast<int64_t>(begin), static_cast<int64_t>(end)});
      if (end == text.size()) break;
      begin = end + 1;
    }
  }
  // The bytes of tokens [begin, end) with the blanks between them.
  ByteSpan bytes(int64_t begin, int64_t end, const std::string& name) const {
    if (begin < 0 || begin >= end || end > static_cast<int64_t>(ranges_.size())) {
      throw BadRecord{concat("\"", name, "\" is [", begin, ", ", end, "), the document has ",
                             ranges_.size(), " tokens")};
    }
    const ByteSpan span{ranges_[begin].begin, ranges_[end - 1].end};
    if (span.begin == span.end) throw BadRecord{concat("\"", name, "\" covers no text")};
    return span;
  }

 private:
  std::vector<ByteSpan> ranges_;
};

DocumentExample read_record(const json& value, int64_t line) {
  DocumentExample example;
  example.document = require_text_key(value, "document_text");
  if (const auto url = value.find("document_url"); url != value.end())
    example.title = title_of_url(require_string(*url, "document_url"));

  Question question;
  question.id = require_integer_text(require_key(value, "example_id"), "example_id");
  question.text = require_text_key(value, "question_text");
  question.source_line = line;

  const TokenRanges tokens(example.document);
  const auto read_span = [&tokens](const json& span,
                                   const std::string& name) -> std::optional<ByteSpan> {
    const int64_t begin =
        require_integer(require_key(span, "start_token", name + "."), name + ".start_token");
    const int64_t end =
        require_integer(require_key(span, "end_token", name + "."), name + ".end_token");
    if (begin == -1 && end == -1) return std::nullopt;
    return tokens.bytes(begin, end, name);
  };
  read_nq_annotations(require_key(value, "annotations"), example.document, read_span, question);
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_nq_simplified(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink) {
  ReadReport report;
  read_json_lines({path, options, report}, [&](const json& value, const RecordPlace& place) {
    DocumentExample example = read_record(value, place.line);
    count_question(report, example.document, example.questions[0]);
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
