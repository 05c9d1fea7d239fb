#include "csv_rows.h"

#include <utility>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

const std::string kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

CsvRows::CsvRows(size_t maximum_bytes, RowSink row, ProblemSink problem)
    : maximum_(maximum_bytes), row_(std::move(row)), problem_(std::move(problem)) {}

void CsvRows::add(const char* bytes, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    if (mark_ < kByteOrderMark.size() && bytes[i] == kByteOrderMark[mark_]) {
      ++mark_;
      continue;
    }
    mark_ = kByteOrderMark.size();
    step(bytes[i]);
    if (bytes[i] != '\n') continue;
    ++line_;
    if (state_ == State::kStart && fields_.empty()) begin_ = line_;
  }
}

void CsvRows::step(char c) {
  switch (state_) {
    case State::kStart:
      if (c != '"') return after_value(c);
      quoted_ = true;
      state_ = State::kQuoted;
      return;
    case State::kPlain:
      if (c == '"') return fail("a quote inside a field that is not quoted");
      return after_value(c);
    case State::kQuoted:
      if (c != '"') return append(c);
      state_ = State::kQuote;
      return;
    case State::kQuote:
      if (c == '"') {
        append(c);
        state_ = State::kQuoted;
        return;
      }
      if (c != ',' && c != '\n' && c != '\r') return fail("text after a closing quote");
      return after_value(c);
    case State::kCarriage:
      if (c != '\n') return fail("a carriage return without a line feed");
      return end_row();
    case State::kSkip:
      if (c == '\n') state_ = State::kStart;
      return;
  }
}

// A byte outside of quotes.
void CsvRows::after_value(char c) {
  if (c == ',') {
    end_field();
  } else if (c == '\n') {
    end_row();
  } else if (c == '\r') {
    state_ = State::kCarriage;
  } else {
    state_ = State::kPlain;
    append(c);
  }
}

void CsvRows::append(char c) {
  if (++size_ <= maximum_) field_ += c;
}

void CsvRows::end_field() {
  size_ += sizeof(std::string);
  if (size_ <= maximum_) fields_.push_back(std::move(field_));
  field_.clear();
  state_ = State::kStart;
}

void CsvRows::end_row() {
  const bool blank = fields_.empty() && field_.empty() && !quoted_;
  end_field();
  if (size_ > maximum_) {
    problem_(begin_, concat("the row is longer than ", maximum_, " bytes"));
  } else if (!blank) {
    row_(fields_, begin_);
  }
  fields_.clear();
  size_ = 0;
  quoted_ = false;
}

void CsvRows::fail(const std::string& reason) {
  problem_(begin_, concat("invalid CSV (", reason, " in line ", line_, ")"));
  fields_.clear();
  field_.clear();
  size_ = 0;
  quoted_ = false;
  state_ = State::kSkip;
}

void CsvRows::finish() {
  if (state_ == State::kQuoted) {
    problem_(begin_, "invalid CSV (the file ends inside a quoted field)");
  } else if (state_ != State::kSkip && (state_ != State::kStart || !fields_.empty())) {
    end_row();
  }
}

}  // namespace dsrsq
