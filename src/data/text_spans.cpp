#include "text_spans.h"

#include <algorithm>

#include "dsrsq/core/error.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

// Letters of other alphabets are no word characters here: many are written without blanks.
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool stands_alone(std::string_view document, size_t begin, size_t end) {
  const bool joined_before = begin > 0 && is_word(document[begin - 1]) && is_word(document[begin]);
  const bool joined_after =
      end < document.size() && is_word(document[end - 1]) && is_word(document[end]);
  return !joined_before && !joined_after;
}

bool begins_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }

int64_t code_points(const std::string& text, size_t begin, size_t end) {
  return std::count_if(text.begin() + begin, text.begin() + end, begins_character);
}

ByteSpan span_at(size_t at, size_t size) {
  return {static_cast<int64_t>(at), static_cast<int64_t>(at + size)};
}

}  // namespace

bool begins_character(const std::string& text, int64_t at) {
  return at == static_cast<int64_t>(text.size()) || begins_character(text[at]);
}

void CodePoints::build() {
  built_ = true;
  const auto high = [](char c) { return (static_cast<unsigned char>(c) & 0x80) != 0; };
  ascii_ = std::none_of(text_.begin(), text_.end(), high);
  if (ascii_) return;
  for (size_t i = 0; i < text_.size(); ++i) {
    if (begins_character(text_[i])) starts_.push_back(static_cast<int64_t>(i));
  }
  starts_.push_back(static_cast<int64_t>(text_.size()));
}

int64_t CodePoints::size() {
  if (!built_) build();
  return static_cast<int64_t>(ascii_ ? text_.size() : starts_.size() - 1);
}

int64_t CodePoints::byte_of(int64_t point) {
  if (!built_) build();
  return ascii_ ? point : starts_[point];
}

ByteSpan CodePoints::bytes(int64_t begin, int64_t end, const std::string& name) {
  if (begin < 0 || begin >= end || end > size()) {
    throw BadRecord{concat("\"", name, "\" is [", begin, ", ", end, "), the context has ", size(),
                           " code points")};
  }
  return {byte_of(begin), byte_of(end)};
}

std::optional<ByteSpan> find_answer(const std::string& document, ByteSpan range,
                                    std::string_view answer) {
  if (answer.empty()) return std::nullopt;
  const std::string_view text = std::string_view(document).substr(0, range.end);
  std::optional<ByteSpan> anywhere;
  for (size_t at = text.find(answer, range.begin); at != std::string_view::npos;
       at = text.find(answer, at + 1)) {
    if (stands_alone(text, at, at + answer.size())) return span_at(at, answer.size());
    if (!anywhere) anywhere = span_at(at, answer.size());
  }
  return anywhere;
}

std::optional<ByteSpan> find_answer(const std::string& document,
                                    const std::vector<ByteSpan>& ranges, std::string_view answer) {
  for (const ByteSpan& range : ranges) {
    if (const auto found = find_answer(document, range, answer)) return found;
  }
  return find_answer(document, ByteSpan{0, static_cast<int64_t>(document.size())}, answer);
}

std::optional<ByteSpan> find_only(const std::string& document, std::string_view answer) {
  if (answer.empty()) return std::nullopt;
  const size_t at = document.find(answer);
  if (at == std::string::npos || document.find(answer, at + 1) != std::string::npos)
    return std::nullopt;
  return span_at(at, answer.size());
}

ByteSpan sentence_around(const std::string& document, const ByteSpan& span) {
  const auto ends_sentence = [&document](int64_t at) {
    const char c = document[at];
    return c == '\n' ||
           ((c == '.' || c == '?' || c == '!') && at + 1 < static_cast<int64_t>(document.size()) &&
            (document[at + 1] == ' ' || document[at + 1] == '\n'));
  };
  ByteSpan sentence = span;
  while (sentence.begin > 0 && !ends_sentence(sentence.begin - 1)) --sentence.begin;
  while (sentence.begin < span.begin && document[sentence.begin] == ' ') ++sentence.begin;
  const int64_t size = static_cast<int64_t>(document.size());
  while (sentence.end < size && !ends_sentence(sentence.end)) ++sentence.end;
  if (sentence.end < size && document[sentence.end] != '\n') ++sentence.end;
  return sentence;
}

std::optional<ByteSpan> find_nearest(const std::string& document, std::string_view text,
                                     int64_t at) {
  if (text.empty()) return std::nullopt;
  const size_t before = document.rfind(text, static_cast<size_t>(at));
  const size_t after = document.find(text, static_cast<size_t>(at));
  if (before == std::string::npos && after == std::string::npos) return std::nullopt;
  if (before == std::string::npos || after == std::string::npos)
    return span_at(before == std::string::npos ? after : before, text.size());
  // Offsets drift in code points: the distance is in them too.
  const bool take_before = code_points(document, before, static_cast<size_t>(at)) <=
                           code_points(document, static_cast<size_t>(at), after);
  return span_at(take_before ? before : after, text.size());
}

std::optional<ByteSpan> place_answer(const std::string& document, CodePoints& points,
                                     const std::string& text, int64_t offset,
                                     const std::string& name, int64_t& relocated) {
  if (offset < 0 || offset > points.size()) {
    throw BadRecord{
        concat("\"", name, "\" is ", offset, ", the context has ", points.size(), " code points")};
  }
  const int64_t at = points.byte_of(offset);
  const std::optional<ByteSpan> found = find_nearest(document, text, at);
  if (found && found->begin != at) ++relocated;
  return found;
}

}  // namespace dsrsq
