#include "csv_records.h"

#include <algorithm>

#include "csv_rows.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

class CsvRecords {
 public:
  CsvRecords(const ReadContext& context, const std::vector<std::string>& columns,
             const CsvSink& record)
      : context_(context), columns_(columns), record_(record) {}

  void read() {
    CsvRows rows(
        kMaximumRecord,
        [this](const std::vector<std::string>& fields, int64_t line) {
          if (!readable_) return;
          guard(line, [&] { header_ == 0 ? read_header(fields) : read_row(fields, line); });
        },
        [this](int64_t line, const std::string& reason) {
          if (readable_) guard(line, [&] { throw BadRecord{reason}; });
        });
    for_each_chunk(
        context_.path,
        [&](const char* bytes, size_t size) {
          rows.add(bytes, size);
          return readable_;
        },
        context_.options.progress);
    rows.finish();
  }

 private:
  void guard(int64_t line, const std::function<void()>& body) {
    guard_record(context_, concat(context_.path, ":", line), body);
  }

  void read_header(const std::vector<std::string>& names) {
    readable_ = false;
    for (const std::string& column : columns_) {
      const auto found = std::find(names.begin(), names.end(), column);
      if (found == names.end())
        throw BadRecord{
            concat("the header has no column \"", column, "\"; nothing after it is read")};
      places_.push_back(static_cast<size_t>(found - names.begin()));
    }
    header_ = names.size();
    readable_ = true;
  }

  void read_row(const std::vector<std::string>& row, int64_t line) {
    if (row.size() != header_)
      throw BadRecord{concat("the row has ", row.size(), " fields, the header names ", header_)};
    std::vector<std::string> fields;
    for (size_t i = 0; i < places_.size(); ++i) {
      if (!is_utf8(row[places_[i]]))
        throw BadRecord{concat("invalid UTF-8 in column \"", columns_[i], "\"")};
      fields.push_back(row[places_[i]]);
    }
    record_(fields, line);
  }

  const ReadContext& context_;
  const std::vector<std::string>& columns_;
  const CsvSink& record_;
  std::vector<size_t> places_;  // of the columns
  size_t header_ = 0;           // its fields; 0: it is still to be read
  bool readable_ = true;
};

}  // namespace

void read_csv_records(const ReadContext& context, const std::vector<std::string>& columns,
                      const CsvSink& record) {
  CsvRecords(context, columns, record).read();
}

}  // namespace dsrsq
