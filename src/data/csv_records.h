// The rows of a CSV file (RFC 4180) as records. Private to src/data.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "record_reader.h"

namespace dsrsq {

// `fields` are those of the columns that were asked for, in that order; `line` is where the row
// begins. May throw BadRecord.
using CsvSink = std::function<void(const std::vector<std::string>& fields, int64_t line)>;

// Calls `record` for every row after the header. Bad records: a row with another number of fields
// than the header or with a field that is not UTF-8, and a header without one of the columns, after
// which nothing is read. Throws DataError over the limit of bad records, and what for_each_chunk
// throws.
void read_csv_records(const ReadContext& context, const std::vector<std::string>& columns,
                      const CsvSink& record);

}  // namespace dsrsq
