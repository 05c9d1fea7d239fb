// What the line-based readers share: parsing with limits, typed access to keys, and the account of
// bad records. Private to src/data.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dsrsq/data/readers.h"

namespace dsrsq {

// A record that cannot be used. Caught by read_json_lines alone.
struct BadRecord {
  std::string reason;
};

// Parses every line and hands it to `record`, which may throw BadRecord; what it adds to
// `report.records` stands. Lines of white space are no records. Throws DataError over the limit of
// bad records, and what for_each_line throws.
void read_json_lines(const std::string& path, const ReadOptions& options, ReadReport& report,
                     const std::function<void(const nlohmann::json& value, int64_t line)>& record);

// The member `key` of an object, of the right type. `where` ("annotations[0].") stands before the
// key in reasons.
const nlohmann::json& require_key(const nlohmann::json& object, const std::string& key,
                                  const std::string& where = "");
const std::string& require_string(const nlohmann::json& value, const std::string& name);
const nlohmann::json& require_array(const nlohmann::json& value, const std::string& name);
int64_t require_integer(const nlohmann::json& value, const std::string& name);  // within int64
std::string require_integer_text(const nlohmann::json& value,
                                 const std::string& name);  // int64 or uint64, in decimal

// Appends unless it is there already.
void add_once(std::vector<std::string>& values, const std::string& value);
void add_once(std::vector<ByteSpan>& spans, ByteSpan span);

}  // namespace dsrsq
