// What a table of dsrsq-eval can show.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/eval/report.h"

namespace dsrsq {

// Every metric that a table can show.
std::vector<Column> result_columns();
// Those of these names, in that order; throws ConfigError naming the known ones. Without names the
// ones that a table shows by default: results.json has them all.
std::vector<Column> choose_columns(const std::vector<std::string>& names);

}  // namespace dsrsq
