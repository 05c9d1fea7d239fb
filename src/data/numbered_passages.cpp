#include "dsrsq/data/numbered_passages.h"

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

// How far a passage's title and text move.
struct Moved {
  ByteSpan from;
  int64_t title_end = 0;
  int64_t title_shift = 0, text_shift = 0;
};

int64_t place_of(const std::vector<Moved>& moved, int64_t at, bool is_end) {
  for (const Moved& passage : moved) {
    const bool inside = is_end ? at > passage.from.begin && at <= passage.from.end
                               : at >= passage.from.begin && at < passage.from.end;
    if (inside) return at + (at <= passage.title_end ? passage.title_shift : passage.text_shift);
  }
  throw DataError(concat("numbered passages: the span at byte ", at, " is in no passage"));
}

void move_spans(const std::vector<Moved>& moved, std::vector<ByteSpan>& spans) {
  for (ByteSpan& span : spans)
    span = {place_of(moved, span.begin, false), place_of(moved, span.end, true)};
}

}  // namespace

DocumentExample number_passages(const DocumentExample& example) {
  if (example.passages.empty())
    throw DataError(
        "--passages numbered: expected documents of passages, got one of none; it goes with "
        "--format lost_in_the_middle or --documents N");
  DocumentExample out = example;
  out.document.clear();
  out.passages.clear();
  std::vector<Moved> moved;
  for (size_t i = 0; i < example.passages.size(); ++i) {
    const ByteSpan from = example.passages[i];
    const size_t title_end = example.document.find('\n', static_cast<size_t>(from.begin));
    if (title_end == std::string::npos || static_cast<int64_t>(title_end) >= from.end)
      throw DataError(concat("--passages numbered: passage ", i + 1,
                             " has no title, which is the first line of several"));
    if (i > 0) out.document += "\n";
    const int64_t begin = static_cast<int64_t>(out.document.size());
    out.document += concat("Document [", i + 1, "](Title: ");
    Moved passage{from, static_cast<int64_t>(title_end), 0, 0};
    passage.title_shift = static_cast<int64_t>(out.document.size()) - from.begin;
    out.document.append(example.document, static_cast<size_t>(from.begin),
                        title_end - static_cast<size_t>(from.begin));
    out.document += ") ";
    passage.text_shift = static_cast<int64_t>(out.document.size() - title_end) - 1;
    out.document.append(example.document, title_end + 1,
                        static_cast<size_t>(from.end) - title_end - 1);
    out.passages.push_back({begin, static_cast<int64_t>(out.document.size())});
    moved.push_back(passage);
  }
  for (Question& question : out.questions) {
    move_spans(moved, question.evidence);
    move_spans(moved, question.answer_spans);
  }
  return out;
}

}  // namespace dsrsq
