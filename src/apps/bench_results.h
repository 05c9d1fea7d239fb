// Results of another program that dsrsq-bench takes over.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/eval/report.h"

namespace dsrsq {

// `option` names the file's option in errors. Throws DataError.
std::vector<ResultRecord> read_results(const std::string& option, const std::string& path);

}  // namespace dsrsq
