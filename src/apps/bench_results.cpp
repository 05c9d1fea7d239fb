#include "bench_results.h"

#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"

namespace dsrsq {

std::vector<ResultRecord> read_results(const std::string& option, const std::string& path) {
  try {
    return parse_results(parse_json(read_file(path)), path);
  } catch (const JsonError& error) {
    throw DataError(concat(option, " ", path, ": expected results in JSON: ", error.what()));
  }
}

}  // namespace dsrsq
