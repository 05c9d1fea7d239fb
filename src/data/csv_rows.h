// Cuts a stream of bytes into the rows of a CSV file (RFC 4180): quoted fields may hold commas,
// line breaks and doubled quotes. Rows end with LF or CR LF; a byte order mark and blank lines are
// passed over. One row is in memory at a time. Private to src/data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dsrsq {

class CsvRows {
 public:
  // `line` is where the row begins, from 1.
  using RowSink = std::function<void(const std::vector<std::string>& fields, int64_t line)>;
  using ProblemSink = std::function<void(int64_t line, const std::string& reason)>;

  // A row that takes more than `maximum_bytes` of memory is dropped as a problem. After a misplaced
  // quote the rest of its line is passed over: where the row was to end, nobody knows.
  CsvRows(size_t maximum_bytes, RowSink row, ProblemSink problem);

  void add(const char* bytes, size_t size);
  void finish();  // the last row needs no line break

 private:
  enum class State {
    kStart,     // of a field
    kPlain,     // in a field without quotes
    kQuoted,    // in a quoted field
    kQuote,     // after a quote in it: the first of two, or the end
    kCarriage,  // after CR outside of quotes
    kSkip,      // to the end of the line
  };
  void step(char c);
  void after_value(char c);
  void append(char c);
  void end_field();
  void end_row();
  void fail(const std::string& reason);

  size_t maximum_;
  RowSink row_;
  ProblemSink problem_;
  State state_ = State::kStart;
  std::vector<std::string> fields_;
  std::string field_;
  size_t size_ = 0;      // of the row in memory
  int64_t line_ = 1;     // that is read
  int64_t begin_ = 1;    // where the row began
  size_t mark_ = 0;      // bytes of the byte order mark
  bool quoted_ = false;  // the row has a quoted field: it is not blank
};

}  // namespace dsrsq
