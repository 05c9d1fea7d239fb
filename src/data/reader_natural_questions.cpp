// Natural Questions in its original form. The document is what NQ's simplify_nq_example writes as
// document_text, so that a question is the same example in both forms.
#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "nq_annotations.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

struct Token {
  ByteSpan html;  // in document_html
  ByteSpan text;  // in the document
};

// The offsets under `begin_key` and `end_key`; {-1, -1} where they are absent.
ByteSpan read_offsets(const json& span, const char* begin_key, const char* end_key,
                      const std::string& name) {
  const auto begin = span.find(begin_key);
  const auto end = span.find(end_key);
  if (begin == span.end() && end == span.end()) return {-1, -1};
  return {require_integer(require_key(span, begin_key, name + "."), concat(name, ".", begin_key)),
          require_integer(require_key(span, end_key, name + "."), concat(name, ".", end_key))};
}

bool is_null(const ByteSpan& offsets) { return offsets.begin == -1 && offsets.end == -1; }

// document_tokens as text and as ranges of both texts.
class HtmlTokens {
 public:
  HtmlTokens(const json& tokens, int64_t html_bytes) {
    for (size_t i = 0; i < require_array(tokens, "document_tokens").size(); ++i)
      add(require_object(tokens[i], concat("document_tokens[", i, "]")),
          concat("document_tokens[", i, "]"), html_bytes);
  }

  std::string take_text() { return std::move(text_); }
  int64_t relocated() const { return relocated_; }

  // Byte offsets come first where they are given, as in NQ's evaluation; token offsets that name
  // other tokens are counted.
  std::optional<ByteSpan> span(const json& value, const std::string& name) {
    const ByteSpan bytes = read_offsets(value, "start_byte", "end_byte", name);
    const ByteSpan tokens = read_offsets(value, "start_token", "end_token", name);
    if (is_null(bytes) && is_null(tokens)) {
      if (value.contains("start_token") || value.contains("start_byte")) return std::nullopt;
      throw BadRecord{concat("\"", name, "\" has neither byte nor token offsets")};
    }
    if (!is_null(tokens) && (tokens.begin < 0 || tokens.begin >= tokens.end ||
                             tokens.end > static_cast<int64_t>(tokens_.size()))) {
      throw BadRecord{concat("\"", name, "\" is [", tokens.begin, ", ", tokens.end,
                             "), the document has ", tokens_.size(), " tokens")};
    }
    const ByteSpan range = is_null(bytes) ? tokens : tokens_of_bytes(bytes, name);
    if (!is_null(tokens) && (range.begin != tokens.begin || range.end != tokens.end)) ++relocated_;
    const ByteSpan text{tokens_[range.begin].text.begin, tokens_[range.end - 1].text.end};
    if (text.begin == text.end) throw BadRecord{concat("\"", name, "\" covers no text")};
    return text;
  }

 private:
  void add(const json& token, const std::string& name, int64_t html_bytes) {
    const ByteSpan html = read_offsets(token, "start_byte", "end_byte", name);
    const int64_t before = tokens_.empty() ? 0 : tokens_.back().html.end;
    if (html.begin < before || html.begin > html.end || html.end > html_bytes) {
      throw BadRecord{concat("\"", name, "\" is at bytes [", html.begin, ", ", html.end,
                             "), expected a range from ", before, " on, below ", html_bytes + 1)};
    }
    if (!tokens_.empty()) text_ += ' ';
    const int64_t begin = static_cast<int64_t>(text_.size());
    text_ += require_string(require_key(token, "token", name + "."), name + ".token");
    std::replace(text_.begin() + begin, text_.end(), ' ', '_');
    tokens_.push_back({html, {begin, static_cast<int64_t>(text_.size())}});
  }

  // The tokens that overlap the bytes. Tokens rise and do not overlap, hence the binary searches.
  ByteSpan tokens_of_bytes(const ByteSpan& bytes, const std::string& name) const {
    const auto first = std::partition_point(
        tokens_.begin(), tokens_.end(), [&](const Token& t) { return t.html.end <= bytes.begin; });
    const auto last = std::partition_point(
        first, tokens_.end(), [&](const Token& t) { return t.html.begin < bytes.end; });
    if (bytes.begin < 0 || bytes.begin >= bytes.end || first == last) {
      throw BadRecord{concat("\"", name, "\" is at bytes [", bytes.begin, ", ", bytes.end,
                             "), where the document has no token")};
    }
    return {first - tokens_.begin(), last - tokens_.begin()};
  }

  std::vector<Token> tokens_;
  std::string text_;
  int64_t relocated_ = 0;
};

std::string read_title(const json& value) {
  if (const auto title = value.find("document_title"); title != value.end())
    return require_string(*title, "document_title");
  const auto url = value.find("document_url");
  return url == value.end() ? "" : title_of_url(require_string(*url, "document_url"));
}

DocumentExample read_record(const json& value, int64_t line, int64_t& relocated) {
  Question question;
  question.id = require_id(require_key(value, "example_id"), "example_id");
  question.text = require_text_key(value, "question_text");
  question.source_line = line;
  const std::string& html = require_string(require_key(value, "document_html"), "document_html");
  HtmlTokens tokens(require_key(value, "document_tokens"), static_cast<int64_t>(html.size()));

  DocumentExample example;
  example.title = read_title(value);
  example.document = tokens.take_text();
  if (example.document.empty()) throw BadRecord{"\"document_tokens\" hold no text"};
  read_nq_annotations(
      require_key(value, "annotations"), example.document,
      [&tokens](const json& span, const std::string& name) { return tokens.span(span, name); },
      question);
  relocated = tokens.relocated();
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_natural_questions(const std::string& path, const ReadOptions& options,
                                  const ExampleSink& sink) {
  ReadReport report;
  read_json_lines({path, options, report}, [&](const json& value, const RecordPlace& place) {
    int64_t relocated = 0;
    DocumentExample example = read_record(value, place.line, relocated);
    count_question(report, example.document, example.questions[0]);
    report.relocated += relocated;
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
