// Finding answers in a document: code points to bytes, verbatim occurrences, drifted offsets.
// Private to src/data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsrsq/data/example.h"

namespace dsrsq {

// Whether no character of a valid UTF-8 text is cut at byte `at`, which may be its end.
bool begins_character(const std::string& text, int64_t at);

// Unicode code points to bytes of a valid UTF-8 text (the JSON parser has checked it). The table is
// built only where it is needed, and not at all for ASCII. The text must outlive it.
class CodePoints {
 public:
  explicit CodePoints(const std::string& text) : text_(text) {}
  int64_t size();                  // code points of the text
  int64_t byte_of(int64_t point);  // in [0, size()]
  // Throws BadRecord where [begin, end) is empty or not inside the text.
  ByteSpan bytes(int64_t begin, int64_t end, const std::string& name);

 private:
  void build();

  const std::string& text_;
  bool built_ = false;
  bool ascii_ = false;
  std::vector<int64_t> starts_;
};

// The first verbatim occurrence of `answer` in the range: preferably as whole words ("no" is not to
// be found in "November"), else anywhere. Nothing for an empty answer.
std::optional<ByteSpan> find_answer(const std::string& document, ByteSpan range,
                                    std::string_view answer);

// As find_answer in each range in turn, then in the whole document.
std::optional<ByteSpan> find_answer(const std::string& document,
                                    const std::vector<ByteSpan>& ranges, std::string_view answer);

// Where `answer` stands, where it stands only once: what stands more often shows nothing.
std::optional<ByteSpan> find_only(const std::string& document, std::string_view answer);

// The sentence around a span: from behind a line feed or the last ". ", "? " or "! " before it to
// before the next line feed, or behind the next such mark.
ByteSpan sentence_around(const std::string& document, const ByteSpan& span);

// The occurrence of `text` that begins nearest to byte `at` (the earlier of two).
std::optional<ByteSpan> find_nearest(const std::string& document, std::string_view text,
                                     int64_t at);

// Where an answer stands that the source gives as text and code point offset. An offset that is not
// that of the text has drifted: the nearest occurrence is taken and `relocated` counts it; nothing
// where the text does not occur. Throws BadRecord for an offset outside the document.
std::optional<ByteSpan> place_answer(const std::string& document, CodePoints& points,
                                     const std::string& text, int64_t offset,
                                     const std::string& name, int64_t& relocated);

}  // namespace dsrsq
