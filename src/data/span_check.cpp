#include "dsrsq/data/span_check.h"

#include <algorithm>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

class SpanText {
 public:
  SpanText(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, const TokenSpan& span) {
    const auto decode = [&](int64_t begin, int64_t end) {
      return tokenizer.decode({ids.begin() + begin, ids.begin() + end}, true);
    };
    text_ = decode(span.begin, span.end);
    // Where a token ends inside a character, its part of the text is up to three bytes longer.
    first_end_ = decode(span.begin, span.begin + 1).size();
    last_size_ = decode(span.end - 1, span.end).size();
  }

  const std::string& text() const { return text_; }

  bool shows(const std::string& answer) const {
    for (size_t at = text_.find(answer); at != std::string::npos && at < first_end_;
         at = text_.find(answer, at + 1)) {
      if (at + answer.size() + last_size_ > text_.size()) return true;
    }
    return false;
  }

 private:
  std::string text_;
  size_t first_end_ = 0;
  size_t last_size_ = 0;
};

std::string cut(const std::string& text) {
  constexpr size_t kLongest = 60;
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

}  // namespace

SpanCheck check_answer_spans(const Store& store, const Tokenizer& tokenizer) {
  store.require_tokenizer(tokenizer);
  SpanCheck check;
  std::vector<int32_t> ids;
  int64_t document = -1;
  for (int64_t i = 0; i < store.info().records; ++i) {
    const StoredRecord record = store.record(i);
    if (record.document != document) ids = store.document_tokens(document = record.document);
    for (const TokenSpan& span : record.answer_spans) {
      if (span.begin < 0 || span.begin >= span.end || span.end > static_cast<int64_t>(ids.size()))
        throw DataError(concat(store.path(), ": record ", i, " has span [", span.begin, ", ",
                               span.end, ") in a document of ", ids.size(), " tokens"));
      const SpanText text(tokenizer, ids, span);
      ++check.spans;
      if (std::any_of(record.answers.begin(), record.answers.end(),
                      [&text](const std::string& answer) { return text.shows(answer); })) {
        ++check.at_text;
      } else if (check.first_other.empty()) {
        check.first_other = concat("record ", i, " (id ", record.id, "): tokens [", span.begin,
                                   ", ", span.end, ") are \"", cut(text.text()), "\"");
      }
    }
  }
  return check;
}

}  // namespace dsrsq
